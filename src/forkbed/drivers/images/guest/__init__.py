"""What Forkbed puts into the guests of its own images: files only, no code for the host."""
