"""Which foreign files are refused, before any tool opens them."""

from __future__ import annotations

import struct

import pytest

from forkbed.core.images.foreign import ForeignFile, Refusal, examine, size_refusal, table_refusal

MIB = 1024**2


def qcow2(*, version: int = 3, backing: int = 0, encryption: int = 0, features: int = 0) -> bytes:
    head = struct.pack(">4sIQIIQI", b"QFI\xfb", version, backing, 0, 16, MIB, encryption)
    return head.ljust(72, b"\0") + struct.pack(">Q", features) + bytes(400)


def vdi(*, blocks: int) -> bytes:
    head = bytearray(512)
    head[64:68] = b"\x7f\x10\xda\xbe"
    struct.pack_into("<I", head, 0x158, 2 * MIB)
    struct.pack_into("<IIII", head, 0x178, MIB, 0, 10, blocks)
    return bytes(head)


def sector(*partitions: tuple[int, int, int]) -> bytes:
    table = b"".join(
        bytes([0, 0, 0, 0, kind, 0, 0, 0]) + struct.pack("<II", start, length)
        for kind, start, length in partitions
    )
    return bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa"


@pytest.mark.parametrize(
    ("head", "file_bytes", "wanted"),
    [
        (qcow2(), 9 * MIB, "qcow2"),
        (qcow2(version=2), 9 * MIB, "qcow2"),
        (b"KDMV" + bytes(508), 9 * MIB, "vmdk"),
        (b"vhdxfile" + bytes(508), 9 * MIB, "vhdx"),
        (vdi(blocks=7), 9 * MIB, "vdi"),
        (sector(), 9 * MIB, "raw"),
    ],
)
def test_formats_are_told_by_their_first_bytes(head: bytes, file_bytes: int, wanted: str) -> None:
    assert examine(head, file_bytes) == ForeignFile(wanted)


@pytest.mark.parametrize(
    ("head", "file_bytes", "words"),
    [
        (qcow2(backing=512), 9 * MIB, "backing file"),
        (qcow2(features=4), 9 * MIB, "data file"),
        (qcow2(encryption=2), 9 * MIB, "encrypted"),
        (qcow2(version=9), 9 * MIB, "unknown version"),
        (b"QFI\xfb\0\0", 6, "truncated"),
        (vdi(blocks=8), 9 * MIB, "truncated"),
        (b'# Disk DescriptorFile\nRW 10 FLAT "/etc/shadow" 0', 60, "other files"),
        (sector(), 9 * MIB + 7, "truncated"),
        (b"%PDF-1.4" + bytes(600), 9 * MIB, "no disk image"),
        (b"", 0, "no disk image"),
    ],
)
def test_refusals_say_why(head: bytes, file_bytes: int, words: str) -> None:
    judged = examine(head, file_bytes)
    assert isinstance(judged, Refusal)
    assert words in judged.reason


def test_disks_must_be_of_a_possible_size() -> None:
    assert size_refusal(MIB) is None
    for size in (0, MIB - 512, 9 * 1024**4):
        assert size_refusal(size) is not None


def test_partitions_must_lie_on_the_disk() -> None:
    assert table_refusal(sector((0x83, 8, 2040)), MIB) is None
    assert table_refusal(sector((0xEE, 1, 0xFFFFFFFF)), MIB) is None  # in front of a GPT
    cut = table_refusal(sector((0x83, 8, 2040), (0x83, 2048, 1)), MIB)
    assert cut is not None
    assert "partition 2" in cut.reason
    assert table_refusal(bytes(512), MIB) is not None
