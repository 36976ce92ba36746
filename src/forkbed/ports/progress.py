"""How a long step tells where it is, and learns that it should stop."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    def tell(self, message: str, *, done: float | None = None) -> None:
        """Say what is happening now; `done` is the share finished, 0 to 1, where it is known."""

    def check_cancelled(self) -> None:
        """Raise `Cancelled` if the operation was cancelled; called wherever stopping harms nothing."""


class Cancelled(Exception):
    """The person cancelled the operation; raised only by `Progress.check_cancelled`."""


class Silence:
    """Progress that nobody watches and nobody cancels."""

    def tell(self, message: str, *, done: float | None = None) -> None:
        return None

    def check_cancelled(self) -> None:
        return None
