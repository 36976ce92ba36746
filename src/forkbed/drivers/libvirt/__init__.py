"""Machines as libvirt domains on this host."""
