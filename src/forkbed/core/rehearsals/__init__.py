"""Upgrades as recorded steps: what a rehearsal found, and whether it may be promoted."""
