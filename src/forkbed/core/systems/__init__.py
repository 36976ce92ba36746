"""Systems: what is declared (`spec`), seen (`view`), to be done (`steps`, `planner`) and told (`changes`)."""
