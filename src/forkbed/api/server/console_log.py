"""What a console log gained between two looks at it. Pure."""

from __future__ import annotations

_MARK_BYTES = 1024


def new_output(before: bytes, now: bytes) -> bytes:
    """What was written since `before`, also when the oldest part was rotated away meanwhile.

    All of `now` when nothing of `before` is found in it: the log was replaced.
    """
    if not before:
        return now
    mark = before[-_MARK_BYTES:]
    if now[len(before) - len(mark) : len(before)] == mark:
        return now[len(before) :]
    found = now.rfind(mark)
    return now if found < 0 else now[found + len(mark) :]
