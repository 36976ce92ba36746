"""Recognise a process that outlives us: a pid alone may have been given to somebody else since.

The pid together with the time the process started (in clock ticks since boot) names one process for good.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process of this boot."""

    pid: int
    started_ticks: int

    def __str__(self) -> str:
        return f"{self.pid}:{self.started_ticks}"

    @classmethod
    def parse(cls, text: str) -> ProcessId:
        """The inverse of `str`. Raises ValueError."""
        pid, _, ticks = text.strip().partition(":")
        return cls(int(pid), int(ticks))


def identify(pid: int) -> ProcessId | None:
    """The process that has this pid now; None if there is none, or only its unreaped remains."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command's name in parentheses and may itself hold any character.
    after_name = status[status.rindex(")") + 2 :].split()
    if after_name[0] in {"Z", "X"}:
        return None
    return ProcessId(pid, int(after_name[19]))


def is_alive(process: ProcessId) -> bool:
    """Whether this very process still runs."""
    return identify(process.pid) == process


def send(process: ProcessId, number: signal.Signals) -> bool:
    """Send a signal to this very process; returns whether it was there to receive it."""
    with _handle(process) as handle:
        if handle is None:
            return False
        try:
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        return True


def end(process: ProcessId, *, grace_s: float) -> bool:
    """Ask this very process to end, insist after `grace_s`, and wait until it has; False if it would not."""
    with _handle(process) as handle:
        if handle is None:
            return True
        for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
            try:
                signal.pidfd_send_signal(handle, number)
            except ProcessLookupError:
                return True
            if select.select([handle], [], [], patience_s)[0]:
                return True
        return False


@contextlib.contextmanager
def _handle(process: ProcessId) -> Iterator[int | None]:
    """A pidfd of exactly this process, or None: a signal through it can hit nobody else."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor if is_alive(process) else None
    finally:
        os.close(descriptor)
