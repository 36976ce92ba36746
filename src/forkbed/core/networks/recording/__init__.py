"""What the recorder of a fork's network decides: what is outside, what names lead to, what was said to it."""
