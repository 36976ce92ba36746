"""Progress as lines, for logs and pipes: each step when it says something new, and when it ends."""

from __future__ import annotations

import time
from typing import Self

from forkbed.base.units import format_duration
from forkbed.cli.output import printable, say
from forkbed.core.operations.records import JournalEntry, StepStatus
from forkbed.engine.requests import OperationDetail

_MESSAGE_EVERY_S = 3.0


class PlainDisplay:
    """Lines on standard error. A step that found everything as it should be is passed over."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[int, StepStatus]] = {}
        self._spoke: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing to put back."""

    def show(self, detail: OperationDetail) -> None:
        """Print what is new about the steps that changed."""
        for entry in detail.journal:
            if entry.status is StepStatus.ALREADY or (
                entry.status is StepStatus.STARTED and not entry.message
            ):
                continue
            now = (entry.sequence, entry.status)
            is_new = self._shown.get(entry.key) != now
            due = time.monotonic() - self._spoke.get(entry.key, 0.0) >= _MESSAGE_EVERY_S
            if is_new or (entry.message and due):
                self._shown[entry.key] = now
                self._spoke[entry.key] = time.monotonic()
                say(_line(entry))


def _line(entry: JournalEntry) -> str:
    message = f": {printable(entry.message)}" if entry.message else ""
    took = "" if entry.ended_at is None else f" ({format_duration(entry.ended_at - entry.started_at)})"
    share = f" {entry.done:.0%}" if entry.done is not None and entry.ended_at is None else ""
    return f"{entry.subject}: {entry.verb} {_WORDS[entry.status]}{share}{took}{message}"


_WORDS = {
    StepStatus.STARTED: "…",
    StepStatus.CHANGED: "done",
    StepStatus.ALREADY: "was so already",
    StepStatus.FAILED: "failed",
    StepStatus.INTERRUPTED: "interrupted",
}
