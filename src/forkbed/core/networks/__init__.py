"""Networks: which addresses, MACs, transits and names they get (`addresses`, `names`), what is published."""
