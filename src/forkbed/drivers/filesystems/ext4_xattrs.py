"""Extended attributes of ext4: within the inode, in a block of their own, or large ones in inodes of their own."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from forkbed.drivers.filesystems.problems import Unreadable

MAGIC = 0xEA020000
INLINE_DATA = "system.data"
_ENTRY = struct.Struct("<BBHIII")
_PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
    7: "system.",
    8: "system.richacl",
}


def in_inode(data: bytes, large: Callable[[int], bytes]) -> Iterator[tuple[str, bytes]]:
    """The attributes held within an inode, given its bytes. `large` reads a value out of an inode."""
    if len(data) <= 132:
        return
    start = 128 + struct.unpack_from("<H", data, 128)[0]
    if start + 4 > len(data) or struct.unpack_from("<I", data, start)[0] != MAGIC:
        return
    yield from _entries(data, start + 4, start + 4, large)


def in_block(data: bytes, large: Callable[[int], bytes]) -> Iterator[tuple[str, bytes]]:
    """The attributes held in a block."""
    if struct.unpack_from("<I", data)[0] != MAGIC:
        raise Unreadable("its block of attributes is damaged")
    yield from _entries(data, 32, 0, large)


def _entries(
    data: bytes, at: int, values_at: int, large: Callable[[int], bytes]
) -> Iterator[tuple[str, bytes]]:
    while at + 16 <= len(data) and data[at : at + 4] != b"\0\0\0\0":
        name_bytes, prefix, offset, inode, size, _ = _ENTRY.unpack_from(data, at)
        name = data[at + 16 : at + 16 + name_bytes].decode("utf-8", "backslashreplace")
        if inode:
            value = large(inode)
        elif values_at + offset + size > len(data):
            raise Unreadable("its attributes are damaged")
        else:
            value = data[values_at + offset : values_at + offset + size]
        yield _PREFIXES.get(prefix, f"{prefix}.") + name, value
        at += 16 + (name_bytes + 3) // 4 * 4
