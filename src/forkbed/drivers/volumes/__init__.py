"""Disks of machines as files on this host."""
