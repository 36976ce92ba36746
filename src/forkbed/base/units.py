"""Sizes and times as people write them, to bytes and seconds and back. Pure.

Inside the program a size is an `int` of bytes and a time span a `float` of seconds, the unit in the name.
"""

from __future__ import annotations

import re

_SIZE_FACTORS = {
    "": 1,
    "b": 1,
    "k": 1024,
    "kib": 1024,
    "kb": 1000,
    "m": 1024**2,
    "mib": 1024**2,
    "mb": 1000**2,
    "g": 1024**3,
    "gib": 1024**3,
    "gb": 1000**3,
    "t": 1024**4,
    "tib": 1024**4,
    "tb": 1000**4,
}
_TIME_FACTORS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_NUMBER_AND_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size_bytes(text: str) -> int:
    """Bytes of a size such as `512MiB`, `2 GiB`, `1.5G` or `10GB` (decimal units end in `B` without `i`).

    A number needs a unit, so that nobody takes MiB for bytes. Raises `ValueError` with what would be right.
    """
    match = _NUMBER_AND_UNIT.fullmatch(text)
    factor = _SIZE_FACTORS.get(match.group(2).lower()) if match else None
    if match is None or factor is None or not match.group(2):
        raise ValueError("a size needs a number and a unit, such as 512MiB or 2GiB")
    return round(float(match.group(1)) * factor)


def parse_duration_s(text: str) -> float:
    """Seconds of a time span such as `500ms`, `30s`, `5m`, `2h`, `7d`.

    A number needs a unit. Raises `ValueError` with what would be right.
    """
    match = _NUMBER_AND_UNIT.fullmatch(text)
    factor = _TIME_FACTORS.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        raise ValueError("a time needs a number and a unit, such as 30s, 5m or 2h")
    return float(match.group(1)) * factor


def format_size(size_bytes: int) -> str:
    """A size in the largest fitting binary unit, with one decimal if needed: `512 MiB`, `1.5 GiB`."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.0f} TiB" if value == int(value) else f"{value:.1f} TiB"


def format_duration(seconds: float) -> str:
    """A time span for people: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, second = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {second} s" if second else f"{minutes} min"
    hours, minute = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minute} min" if minute else f"{hours} h"
    days, hour = divmod(hours, 24)
    return f"{days} d {hour} h" if hour else f"{days} d"
