"""Everything that can be right or wrong without a machine to run on. Standard library only; no clock, no I/O."""
