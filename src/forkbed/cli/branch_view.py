"""Snapshots, forks and their lineage as people read them. Pure but for what is asked of the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

from forkbed.base.units import format_duration, format_size
from forkbed.cli.output import printable, state, styled, when
from forkbed.engine.branching import MachineCutSummary, SnapshotSummary, TreeKind, TreeNode
from forkbed.engine.requests import SystemSummary

SNAPSHOT_HEADINGS = ("SNAPSHOT", "CUT", "KIND", "OWN SIZE", "SKEW", "EXPIRES", "FORKS", "MESSAGE")
FREEZE_HEADINGS = ("SNAPSHOT", "MACHINE", "STATE", "FROZEN AT", "STOOD STILL", "HOW", "MEMORY", "NOTE")
TREE_HEADINGS = ("NAME", "WHAT", "STATE", "OWN SIZE", "WHEN", "EXPIRES", "NOTE")
_LINES = ("├─ ", "└─ ", "│  ", "   ")
_ASCII_LINES = ("|- ", "`- ", "|  ", "   ")
_HOW = {
    "background": "its memory was written while it ran on",
    "paused": "until its memory was written",
    "disks": "for its disks only",
}


def snapshot_row(snapshot: SnapshotSummary) -> tuple[str, ...]:
    """A row under `SNAPSHOT_HEADINGS`."""
    words = [snapshot.kind, *(["automatic"] if snapshot.automatic else [])]
    if snapshot.status != "complete":
        words.append(snapshot.status)
    return (
        snapshot.name,
        when(snapshot.cut_at),
        ", ".join(words),
        format_size(snapshot.own_bytes),
        short_time(snapshot.skew_s),
        when(snapshot.expires_at),
        ", ".join(snapshot.forks),
        printable(snapshot.message),
    )


def freeze_rows(snapshot: SnapshotSummary) -> Iterator[tuple[str, ...]]:
    """A row under `FREEZE_HEADINGS` for each machine."""
    for machine in snapshot.machines:
        quiesced = ["its file systems were quiesced"] if machine.quiesced else []
        yield (
            snapshot.name,
            machine.name,
            state(machine.power),
            "" if machine.frozen_at is None else instant(machine.frozen_at),
            "" if machine.frozen_s is None else short_time(machine.frozen_s),
            "" if machine.method == "none" else machine.method,
            format_size(machine.memory_bytes) if machine.memory_bytes else "",
            printable("; ".join([*quiesced, *([machine.note] if machine.note else [])])),
        )


def freeze_lines(machines: Sequence[MachineCutSummary], skew_s: float) -> Iterator[str]:
    """How long each machine stood still, in words; how far apart they began."""
    for machine in machines:
        if machine.frozen_s is None:
            yield f"{machine.name} did not run ({machine.power})"
        else:
            how = f": {_HOW[machine.method]}" if machine.method in _HOW else ""
            yield f"{machine.name} stood still for {short_time(machine.frozen_s)}{how}"
        if machine.quiesced:
            yield "  its file systems were quiesced by its agent"
        if machine.note:
            yield f"  {printable(machine.note)}"
    if sum(machine.frozen_s is not None for machine in machines) > 1:
        yield f"from the first one's freeze to the last one's: {short_time(skew_s)}"


def tree_rows(roots: Sequence[TreeNode]) -> Iterator[tuple[str, ...]]:
    """The lineage as rows under `TREE_HEADINGS`; the first cell is drawn as far as the terminal can."""
    lines = _LINES if _can_draw() else _ASCII_LINES
    for root in roots:
        yield from _tree_rows(root, "", "", lines)


def _tree_rows(
    node: TreeNode, own: str, below: str, lines: tuple[str, str, str, str]
) -> Iterator[tuple[str, ...]]:
    branch, last, through, nothing = lines
    yield (
        own + (node.name if node.kind is TreeKind.SNAPSHOT else styled(node.name, "bold")),
        node.kind,
        state(node.state),
        format_size(node.own_bytes),
        when(node.at),
        when(node.expires_at),
        printable(node.note),
    )
    for number, child in enumerate(node.children, 1):
        is_last = number == len(node.children)
        yield from _tree_rows(
            child, below + (last if is_last else branch), below + (nothing if is_last else through), lines
        )


def _can_draw() -> bool:
    try:
        "".join(_LINES).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def fork_mark(summary: SystemSummary) -> str:
    """What a fork says of itself: `fork of boss-ops, cut 14:02:11; isolated`; "" for any other system."""
    if not summary.fork_of:
        return ""
    cut = f", cut {clock(summary.cut_at)}" if summary.cut_at is not None else ""
    snapshot = f" (snapshot {summary.snapshot})" if summary.snapshot else ""
    expires = f"; expires {clock(summary.expires_at)}" if summary.expires_at is not None else ""
    return f"fork of {summary.fork_of}{cut}{snapshot}; isolated{expires}"


def clock(at: float) -> str:
    """A time of day, with the date unless that is today's."""
    moment, today = time.localtime(at), time.localtime()
    is_today = moment[:3] == today[:3]
    return time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S", moment)


def instant(at: float) -> str:
    """A time of day to the millisecond, with the date unless that is today's."""
    return f"{clock(at)}.{int(at * 1000) % 1000:03d}"


def short_time(seconds: float) -> str:
    """A time span that may be of milliseconds: `1.2 ms`, `45 ms`, `3.4 s`."""
    milliseconds = seconds * 1000
    if milliseconds >= 1000:
        return format_duration(seconds)
    return f"{milliseconds:.1f} ms" if 0 < milliseconds < 9.95 else f"{milliseconds:.0f} ms"
