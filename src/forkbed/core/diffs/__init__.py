"""What differs between the disks of related systems: the words for it, and the deciding."""
