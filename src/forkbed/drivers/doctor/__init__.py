"""Prove what this host can do, instead of looking whether it seems to."""
