"""Names that a guest chose, as text that is safe to print and can be turned back. Pure.

Promises: `raw(shown(name)) == name` for any bytes; what is shown is valid UTF-8 without control characters, so it
can neither steer a terminal nor break a line.
"""

from __future__ import annotations

import re

_ESCAPED = re.compile(r"\\x([0-9a-f]{2})|\\\\")
_OFTEN = re.compile(rb"[ !#-\[\]-~]*")  # ASCII that stays as it is: nearly every name there is


def shown(name: bytes) -> str:
    """`name` as text: a backslash doubled, bytes that are no printable UTF-8 as `\\xNN`."""
    if _OFTEN.fullmatch(name):
        return name.decode("ascii")
    parts = []
    for character in name.decode("utf-8", "surrogateescape"):
        if character == "\\":
            parts.append("\\\\")
        elif character.isprintable():
            parts.append(character)
        else:
            encoded = character.encode("utf-8", "surrogateescape")
            parts.append("".join(f"\\x{byte:02x}" for byte in encoded))
    return "".join(parts)


def raw(text: str) -> bytes:
    """The name that `shown` made `text` of."""
    pieces: list[bytes] = []
    position = 0
    for match in _ESCAPED.finditer(text):
        pieces.append(text[position : match.start()].encode("utf-8", "surrogateescape"))
        pieces.append(bytes.fromhex(match[1]) if match[1] else b"\\")
        position = match.end()
    pieces.append(text[position:].encode("utf-8", "surrogateescape"))
    return b"".join(pieces)
