"""The intents of one network on disk: two files of JSON lines, of which the older is begun anew when the other is full.

So the newest intents are there, between one and two files full of them, and never more. A line that a crash tore is
passed over. The files are for root alone: they may hold what a guest meant for somebody else.
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from forkbed.core.networks.intents import Intent, IntentKind

_NAMES = ("intents-0.jsonl", "intents-1.jsonl")
_LINE = re.compile(rb'^\{"sequence": (\d{1,18}), .*\}$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class FileLimits:
    """How large one of the two files grows."""

    most_bytes: int = 4 << 20
    most_intents: int = 10_000


class IntentFiles:
    """Adds intents to the files in `directory`, which is made; the only one to do so.

    What it needs of the file system it opens at once, so that it can go on without rights.
    """

    def __init__(self, directory: Path, limits: FileLimits) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._limits = limits
        self._files = [_open(directory / name) for name in _NAMES]
        contents = [os.pread(file, os.fstat(file).st_size, 0) for file in self._files]
        lines = [_lines(content) for content in contents]
        newest = [found[-1][0] if found else 0 for found in lines]
        self._current = newest.index(max(newest))
        self._sequence = max(newest)
        self._bytes = len(contents[self._current])
        self._count = len(lines[self._current])
        self._tears = not contents[self._current].endswith(b"\n") and self._bytes > 0

    def add(self, intent: Intent) -> bool:
        """Append the intent with the next sequence; False if the file system takes no more."""
        record = asdict(intent) | {"sequence": self._sequence + 1}
        line = json.dumps(record).encode() + b"\n"
        is_full = (
            self._bytes + len(line) > self._limits.most_bytes or self._count >= self._limits.most_intents
        )
        if is_full:
            self._turn()
        if self._tears:
            line = b"\n" + line
        file = self._files[self._current]
        try:
            self._tears = os.write(file, line) < len(line)
        except OSError:
            return False
        self._bytes += len(line)
        if not self._tears:
            self._sequence += 1
            self._count += 1
        return not self._tears

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files:
            os.close(file)

    def _turn(self) -> None:
        self._current = 1 - self._current
        os.ftruncate(self._files[self._current], 0)
        self._bytes = self._count = 0
        self._tears = False


def read(directory: Path, *, after: int, limit: int) -> Sequence[Intent]:
    """The intents with a sequence above `after`, oldest first.

    Where older ones were given up for newer ones, the first says so, with the number of those that are missing.
    """
    lines = sorted(line for name in _NAMES for line in _lines(_content(directory / name)))
    found = list(_intents(lines[bisect_left(lines, (after + 1,)) :], limit))
    if found and found[0].sequence > after + 1:
        found.insert(0, _missing(found[0], found[0].sequence - after - 1))
    return found[:limit]


def _intents(lines: Sequence[tuple[int, bytes]], limit: int) -> Iterator[Intent]:
    for number, (_, line) in enumerate(lines):
        if number == limit:
            return
        try:
            record = json.loads(line)
            yield Intent(**record | {"kind": IntentKind(record["kind"])})
        except (ValueError, TypeError, KeyError):
            continue  # of a version that wrote it differently


def _missing(next_one: Intent, count: int) -> Intent:
    return Intent(
        sequence=next_one.sequence - 1,
        at=next_one.at,
        kind=IntentKind.DROPPED,
        source="",
        destination="",
        port=0,
        details={"count": str(count)},
    )


def _lines(content: bytes) -> list[tuple[int, bytes]]:
    return [(int(match[1]), match[0]) for match in _LINE.finditer(content)]


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return b""
