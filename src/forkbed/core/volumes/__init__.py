"""Layers of volumes: what stands on what, and what may be folded."""
