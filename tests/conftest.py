"""What holds for every test: an interrupt is an interrupt."""

from __future__ import annotations

import signal

# A job that a script puts into the background is born deaf to SIGINT, and so are all processes it starts: the
# commands that tests interrupt would never hear of it.
signal.signal(signal.SIGINT, signal.default_int_handler)
