"""Reading the file systems of guests from their disk files, never through the kernel of the host."""
