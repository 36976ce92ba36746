"""Remembering: the relational database behind `ports.store`."""
