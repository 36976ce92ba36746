"""Real time."""

from __future__ import annotations

import time


class SystemClock:
    """`ports.clock.Clock` on the operating system's clock."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Block this thread for that long."""
        time.sleep(seconds)
