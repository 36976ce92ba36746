"""What a place of a disk holds, told from its marks alone."""

from __future__ import annotations

from forkbed.drivers.filesystems.places import Read

EXT = "ext4"  # and ext2, ext3, which are the same to a reader
LVM = "LVM"
NOTHING = "nothing"
UNKNOWN = "unknown"

SLEUTHKIT = frozenset({"vfat", "exfat", "ntfs", "iso9660", "hfsplus"})
APPLIANCE = frozenset({"xfs", "btrfs"})
NO_FILES = frozenset({"swap", NOTHING})
"""They hold no files; a difference in them says nothing."""

_MARKS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"XFSB", "xfs"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (1080, b"\x53\xef", EXT),
    (0, b"LUKS\xba\xbe", "encrypted (LUKS)"),
    (4086, b"SWAPSPACE2", "swap"),
    (4086, b"SWAP-SPACE", "swap"),
    (3, b"NTFS    ", "ntfs"),
    (3, b"EXFAT   ", "exfat"),
    (54, b"FAT", "vfat"),
    (82, b"FAT32", "vfat"),
    (0x8001, b"CD001", "iso9660"),
    (1024, b"H+", "hfsplus"),
    (0, b"hsqs", "squashfs"),
    (1024, b"\x10\x20\xf5\xf2", "f2fs"),
    (4096, b"\xfc\x4e\x2b\xa9", "RAID (md)"),
    (0, b"\xfc\x4e\x2b\xa9", "RAID (md)"),
    (0x10034, b"ReIsEr", "reiserfs"),
)
_HEAD_BYTES = 0x10048
_UBERBLOCKS = range(0x20000, 0x40000, 1024)
_UBERBLOCK = (b"\x0c\xb1\xba\x00\x00\x00\x00\x00", b"\x00\x00\x00\x00\x00\xba\xb1\x0c")


def recognise(read: Read) -> str:
    """The kind of what a place holds; `NOTHING` if its beginning is empty."""
    head = read(0, _HEAD_BYTES)
    if not head.strip(b"\0"):
        return NOTHING
    for sector in range(4):
        label = head[sector * 512 : sector * 512 + 32]
        if label[:8] == b"LABELONE" and label[24:32] == b"LVM2 001":
            return LVM
    for at, mark, kind in _MARKS:
        if head[at : at + len(mark)] == mark:
            return kind
    if any(read(at, 8) in _UBERBLOCK for at in _UBERBLOCKS):
        return "zfs"
    return UNKNOWN
