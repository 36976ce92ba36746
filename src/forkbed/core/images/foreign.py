"""Which files somebody else made can become images: told from their first bytes and from their partition table.

Nothing here opens anything: a file that names another file is refused before any tool could follow the name.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEAD_BYTES = 64 * 1024
MAX_DISK_BYTES = 8 * 1024**4
_SECTOR = 512
_EXTERNAL_DATA_FILE = 1 << 2
_ENCRYPTED_METHODS = {1: "AES", 2: "LUKS"}
_VMDK_DESCRIPTOR = b"# Disk DescriptorFile"


@dataclass(frozen=True, slots=True)
class ForeignFile:
    """A file that may be tried: its format in QEMU's words."""

    format: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a file cannot become an image, and what to do instead."""

    reason: str
    remedy: str = ""


def examine(head: bytes, file_bytes: int) -> ForeignFile | Refusal:
    """Judge a file by its first `HEAD_BYTES` (fewer if it is shorter) and its length."""
    if head.startswith(b"QFI\xfb"):
        return _qcow2(head)
    if head.startswith(b"KDMV") or head.lstrip().startswith(_VMDK_DESCRIPTOR):
        return _vmdk(head)
    if head.startswith(b"vhdxfile"):
        return ForeignFile("vhdx")
    if head[64:68] == b"\x7f\x10\xda\xbe":
        return _vdi(head, file_bytes)
    if head[510:512] == b"\x55\xaa":
        if file_bytes % _SECTOR:
            return Refusal(
                f"it is truncated: a disk has whole sectors of {_SECTOR} bytes", "fetch or copy it again"
            )
        return ForeignFile("raw")
    return Refusal(
        "it is no disk image: no known header, and no partition table",
        "qcow2, raw with a partition table, vmdk, vdi and vhdx can be imported",
    )


def size_refusal(disk_bytes: int) -> Refusal | None:
    """Judge the size of a disk."""
    if disk_bytes > MAX_DISK_BYTES:
        return Refusal(
            f"its disk of {disk_bytes / 1024**4:.0f} TiB is absurdly large",
            f"at most {MAX_DISK_BYTES // 1024**4} TiB are taken",
        )
    if disk_bytes < 1024**2:
        return Refusal(f"its disk of {disk_bytes} bytes is too small to hold a system")
    return None


def table_refusal(first_sector: bytes, disk_bytes: int) -> Refusal | None:
    """Judge a disk of that size by its first sector, as a guest would see it."""
    if first_sector[510:512] != b"\x55\xaa":
        return Refusal("there is no partition table on it, so nothing can be booted from it")
    for number in range(4):
        entry = first_sector[446 + 16 * number : 462 + 16 * number]
        start, length = struct.unpack("<II", entry[8:16])
        protective = entry[4] == 0xEE  # in front of a GPT; its length is often "all there could be"
        if entry[4] and not protective and (start + length) * _SECTOR > disk_bytes:
            return Refusal(
                f"it is truncated: partition {number + 1} ends beyond the disk", "fetch or copy it again"
            )
    return None


def _qcow2(head: bytes) -> ForeignFile | Refusal:
    if len(head) < 72:
        return Refusal("it is truncated: not even its header is complete", "fetch or copy it again")
    version, backing_offset = struct.unpack(">IQ", head[4:16])
    (encryption,) = struct.unpack(">I", head[32:36])
    if version not in (2, 3):
        return Refusal(f"it is qcow2 of the unknown version {version}")
    if backing_offset:
        return Refusal(
            "it needs another file (its backing file), so it is only a part of a disk",
            "flatten it where that file is: qemu-img convert -O qcow2 FILE FLAT",
        )
    if encryption:
        return Refusal(
            f"it is encrypted ({_ENCRYPTED_METHODS.get(encryption, 'unknown method')})",
            "decrypt it with qemu-img convert first",
        )
    if version == 3 and len(head) >= 80 and struct.unpack(">Q", head[72:80])[0] & _EXTERNAL_DATA_FILE:
        return Refusal(
            "its content is in another file (its data file)",
            "merge them where both are: qemu-img convert -O qcow2 FILE MERGED",
        )
    return ForeignFile("qcow2")


def _vdi(head: bytes, file_bytes: int) -> ForeignFile | Refusal:
    if len(head) >= 0x188:
        (data_offset,) = struct.unpack_from("<I", head, 0x158)
        block_bytes, _, _, allocated = struct.unpack_from("<IIII", head, 0x178)
        if data_offset + block_bytes * allocated <= file_bytes:
            return ForeignFile("vdi")
    return Refusal("it is truncated: it ends before its content does", "fetch or copy it again")


def _vmdk(head: bytes) -> ForeignFile | Refusal:
    if not head.startswith(b"KDMV"):
        return Refusal(
            "it is only the description of a vmdk disk, whose content is in other files",
            "merge them where all are: qemu-img convert -O qcow2 FILE MERGED",
        )
    return ForeignFile("vmdk")
