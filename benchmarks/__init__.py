"""Measurements against the plain tools, in the same run: `make bench`, `make bench ONLY=name`."""
