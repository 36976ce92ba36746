"""Make a Debian host ready for Forkbed, say what was changed, and take exactly that back."""
