"""Answers on standard output (tables for people, JSON for programs), words about them on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence

from forkbed.api.codec import encode
from forkbed.cli.invocation import current, wants_colour

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_STATES = {
    "up": "green",
    "running": "green",
    "succeeded": "green",
    "changed": "green",
    "passed": "green",
    "failed": "red",
    "degraded": "red",
    "cancelled": "yellow",
    "paused": "yellow",
    "starting": "cyan",
    "stopping": "cyan",
    "queued": "cyan",
}


def styled(text: str, style: str, stream_number: int = 1) -> str:
    """`text` in that style if the stream shows colours."""
    if style not in _STYLES or not wants_colour(stream_number):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def state(word: str) -> str:
    """A state in its colour."""
    return styled(word, _STATES.get(word, ""))


def emit(value: object) -> bool:
    """Under --json, print `value` as one document and return True; else leave it to the caller."""
    if not current().json:
        return False
    print(json.dumps(encode(value), indent=2, ensure_ascii=False))
    return True


def emit_line(value: object) -> bool:
    """`emit` for one of a series: one line, at once."""
    if not current().json:
        return False
    print(json.dumps(encode(value), ensure_ascii=False), flush=True)
    return True


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Print rows under headings; a word about it on standard error when there are none."""
    lines = [list(row) for row in rows]
    if not lines:
        say(empty)
        return
    widths = [
        max(len(headings[column]), *(len(plain(line[column])) for line in lines))
        for column in range(len(headings))
    ]
    print(styled(_row(headings, widths), "bold"))
    for line in lines:
        print(_row(line, widths))


def say(text: str) -> None:
    """A word to the person, on standard error."""
    print(text, file=sys.stderr, flush=True)


def when(at: float | None) -> str:
    """A time in the person's zone."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def plain(text: str) -> str:
    """`text` without its styles."""
    if "\x1b" not in text:
        return text
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def printable(text: str) -> str:
    """`text` with control characters made visible: what a guest says must not steer the terminal."""
    return "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in text)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell + " " * (width - len(plain(cell))) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(padded).rstrip()
