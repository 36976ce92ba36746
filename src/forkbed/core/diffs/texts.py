"""The difference of two contents as text, within bounds. Pure."""

from __future__ import annotations

import difflib

from forkbed.core.diffs.limits import Limits

_MOST_PAIRS = 4_000_000  # lines of one times lines of the other: what difflib's worst case is bounded by
_LONGEST_LINE = 1000
_CONTEXT = 3


def unified(old: bytes | None, new: bytes | None, limits: Limits) -> tuple[str, ...]:
    """A unified diff without its two head lines; () if they are equal, one line if it cannot be shown as text.

    None stands for "not there". Contents longer than the limit are not looked into: hand in one byte more than it.
    """
    if old == new:
        return ()
    for content in (old, new):
        if content is not None and len(content) > limits.text_bytes:
            return (f"(longer than {limits.text_bytes} bytes)",)
        if content is not None and b"\0" in content:
            return ("(not text)",)
    before, after = _lines(old or b""), _lines(new or b"")
    lines = _difference(before, after)
    if len(lines) > limits.text_lines:
        left_out = len(lines) - limits.text_lines
        lines = [*lines[: limits.text_lines], f"({left_out} more lines)"]
    return tuple(lines)


def _difference(before: list[str], after: list[str]) -> list[str]:
    """difflib takes time that grows with the product of the lengths, so what is equal at both ends goes first."""
    head = 0
    while head < min(len(before), len(after)) and before[head] == after[head]:
        head += 1
    tail = 0
    while tail < min(len(before), len(after)) - head and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    old, new = before[head : len(before) - tail], after[head : len(after) - tail]
    if len(old) * len(new) > _MOST_PAIRS:
        return [
            f"@@ -{head + 1},{len(old)} +{head + 1},{len(new)} @@",
            *(f"-{line}" for line in old),
            *(f"+{line}" for line in new),
        ]
    lead = min(head, _CONTEXT)
    rest = min(tail, _CONTEXT)
    old = before[head - lead : len(before) - tail + rest]
    new = after[head - lead : len(after) - tail + rest]
    lines = list(difflib.unified_diff(old, new, n=_CONTEXT, lineterm=""))[2:]
    return [_moved(line, head - lead) if line.startswith("@@") else line for line in lines]


def _moved(header: str, by: int) -> str:
    """The head of a hunk, for a text of which the first `by` lines were not handed to difflib."""
    words = header.split(" ")
    for index in (1, 2):
        sign, numbers = words[index][0], words[index][1:].split(",")
        numbers[0] = str(int(numbers[0]) + by)
        words[index] = sign + ",".join(numbers)
    return " ".join(words)


def _lines(content: bytes) -> list[str]:
    text = content.decode("utf-8", "backslashreplace")
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    elif lines:
        lines[-1] += "\\ (no newline at the end)"
    return [_printable(line) for line in lines]


def _printable(line: str) -> str:
    shortened = line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}… ({len(line)} characters)"
    if shortened.isprintable():
        return shortened
    return "".join(
        character if character.isprintable() or character == "\t" else f"\\x{ord(character):02x}"
        for character in shortened
    )
