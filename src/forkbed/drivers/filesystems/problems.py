"""What can be wrong with a guest's disk, and the bounds of reading one."""

from __future__ import annotations

from time import monotonic


class Unreadable(Exception):
    """A disk, a file system or a file in it that cannot be read; the text says why, for a person."""


class TooMuch(Unreadable):
    """A bound was reached."""


class Budget:
    """The time and the number of names that reading one volume may take."""

    def __init__(self, seconds: float, entries: int, depth: int) -> None:
        self._seconds = seconds
        self._deadline = monotonic() + seconds
        self._entries = entries
        self.depth = depth

    def check(self) -> None:
        """Raise `TooMuch` when the time is over."""
        if monotonic() > self._deadline:
            raise TooMuch(f"it could not be read within {self._seconds:g} s")

    def names(self, count: int) -> None:
        """Raise `TooMuch` if one file system has more names than may be read, or the time is over."""
        if count > self._entries:
            raise TooMuch(f"it holds more than {self._entries} names")
        self.check()
