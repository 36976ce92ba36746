"""Inside guests: what they are born with, how they are reached, what runs in them."""
