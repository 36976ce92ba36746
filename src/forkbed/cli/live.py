"""Progress on a terminal: a line for each machine and network with its present step, redrawn as it changes."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from forkbed.base.units import format_duration
from forkbed.cli.output import printable
from forkbed.core.operations.records import JournalEntry, Operation, StepStatus
from forkbed.engine.requests import OperationDetail

_PER_SECOND = 8
_RESERVED_LINES = 4
_MARKS = {
    StepStatus.CHANGED: Text("✓", "green"),
    StepStatus.ALREADY: Text("✓", "dim"),
    StepStatus.FAILED: Text("✗", "red"),
    StepStatus.INTERRUPTED: Text("!", "yellow"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """The latest step of one machine or network."""

    subject: str
    entry: JournalEntry
    steps: int  # that ended for it

    @property
    def active(self) -> bool:
        return self.entry.status is StepStatus.STARTED


class LiveDisplay:
    """Redraws on standard error while inside; the last picture stays."""

    def __init__(self, operation: Operation, console: Console | None = None) -> None:
        self._operation = operation
        self._lines: dict[str, Line] = {}
        self._ended: dict[int, StepStatus] = {}
        self._console = console or Console(stderr=True)
        self._spinner = Spinner("dots")
        self._live = Live(
            console=self._console,
            refresh_per_second=_PER_SECOND,
            get_renderable=self.picture,
            transient=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def show(self, detail: OperationDetail) -> None:
        """Take in the steps that changed."""
        self._operation = detail.operation
        for entry in detail.journal:
            subject = entry.subject.partition("/")[0]  # a volume's steps belong to its machine
            line = self._lines.get(subject, Line(subject, entry, 0))
            if entry.status is not StepStatus.STARTED and entry.sequence not in self._ended:
                self._ended[entry.sequence] = entry.status
                line = replace(line, steps=line.steps + 1)
            if entry.sequence >= line.entry.sequence:
                line = replace(line, entry=entry)
            self._lines[subject] = line

    def picture(self) -> RenderableType:
        """What to draw now: what is under way or failed first, as much as fits."""
        room = max(3, self._console.height - _RESERVED_LINES)
        lines = sorted(self._lines.values(), key=_urgency)
        table = Table.grid(padding=(0, 2))
        for line in lines[:room]:
            entry = line.entry
            mark = self._spinner if line.active else _MARKS[entry.status]
            table.add_row(
                mark, Text(line.subject, "bold"), entry.verb, _message(entry), Text(_age(entry), "dim")
            )
        return Group(table, Text(self._summary(len(lines) - room), "dim"))

    def _summary(self, hidden: int) -> str:
        active = sum(line.active for line in self._lines.values())
        since = self._operation.started_at or self._operation.created_at
        took = format_duration(max(0.0, (self._operation.ended_at or time.time()) - since))
        more = f", {hidden} more" if hidden > 0 else ""
        word = self._operation.status
        return f"{self._operation.kind} {self._operation.subject}: {word}, {active} under way{more}, {took}"


def _urgency(line: Line) -> tuple[int, str]:
    failed = line.entry.status in (StepStatus.FAILED, StepStatus.INTERRUPTED)
    return (0 if failed else 1 if line.active else 2, line.subject)


def _message(entry: JournalEntry) -> Text:
    share = f"{entry.done:.0%} " if entry.done is not None and entry.ended_at is None else ""
    return Text(share + printable(entry.message), overflow="ellipsis", no_wrap=True)


def _age(entry: JournalEntry) -> str:
    return format_duration(max(0.0, (entry.ended_at or time.time()) - entry.started_at))
