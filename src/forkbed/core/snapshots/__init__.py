"""Snapshots: what a cut of a system was, and when one may go."""
