"""Forkbed: systems of real virtual machines, with the work flow of version control."""

__version__ = "0.1.0"
