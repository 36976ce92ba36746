"""How bytes that a guest chose are written down: as printable ASCII, safe for any terminal. Pure."""

from __future__ import annotations

_ESCAPED = {byte: chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in range(256)}
_ESCAPED[ord("\\")] = "\\\\"
for _byte, _letter in ((9, "t"), (10, "n"), (13, "r")):
    _ESCAPED[_byte] = f"\\{_letter}"


def printable(data: bytes, limit: int) -> str:
    """The first `limit` bytes; what is not printable ASCII escaped as in Python, so at most four times as long."""
    return "".join(_ESCAPED[byte] for byte in data[:limit])
