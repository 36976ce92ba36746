"""Forks of real guests. A package for pytest: the system that all of these share ends with the last of them."""
