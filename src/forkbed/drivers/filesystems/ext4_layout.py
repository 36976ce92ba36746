"""The structures of ext2, ext3 and ext4 on disk, as the kernel's Documentation/filesystems/ext4 describes them."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from forkbed.drivers.filesystems.places import Read
from forkbed.drivers.filesystems.problems import Unreadable

ROOT = 2
MAGIC = 0xEF53
EXTENTS, INLINE_DATA, EA_INODE, ENCRYPTED = 0x80000, 0x10000000, 0x200000, 0x800

_RECOVER, _META_BG, _64BIT = 0x4, 0x10, 0x80
_FILE_TYPE = 0x2
# known, and harmless to a reader: journal recovery (told), extents, mmp, flex_bg, ea_inode, checksum seed, large
# directories, inline data, encryption and folded case (names are told as they are stored)
_KNOWN = _FILE_TYPE | _RECOVER | _META_BG | 0x40 | _64BIT | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000
_KNOWN |= 0x10000 | 0x20000
_GROUPS_SUMMED = 0x10 | 0x400  # gdt_csum, metadata_csum: only then the count of unused inodes is kept
_MOST_GROUPS = 1 << 20
_INODE_UNINITIALISED = 1


@dataclass(frozen=True, slots=True)
class Group:
    """Where a group's inodes are, and how many of them were ever used."""

    inode_table: int
    used: int


@dataclass(frozen=True, slots=True)
class Superblock:
    """What a reader needs to know of the whole file system."""

    block_bytes: int
    blocks: int
    inode_bytes: int
    inodes_per_group: int
    first_inode: int  # those before it are the file system's own, except for the root
    first_block: int
    blocks_per_group: int
    descriptor_bytes: int
    first_meta_group: (
        int  # from this block of descriptors on they are spread over the groups; -1: they are not
    )
    groups_summed: bool
    needs_recovery: bool
    journal: int  # the inode that holds it, 0 if it lies elsewhere
    types_in_names: bool
    label: str


def read_superblock(read: Read) -> Superblock:
    """Raises `Unreadable` if there is none, or it is one that this reader would get wrong."""
    data = read(1024, 1024)
    if struct.unpack_from("<H", data, 56)[0] != MAGIC:
        raise Unreadable("it has no ext4 superblock")
    (blocks_low,) = struct.unpack_from("<I", data, 4)
    first_block, block_bits = struct.unpack_from("<II", data, 20)
    blocks_per_group, _, inodes_per_group = struct.unpack_from("<III", data, 32)
    (revision,) = struct.unpack_from("<I", data, 76)
    inode_bytes = struct.unpack_from("<H", data, 88)[0] if revision else 128
    _, incompatible, read_only = struct.unpack_from("<III", data, 92) if revision else (0, 0, 0)
    wide = bool(incompatible & _64BIT)
    descriptor_bytes = struct.unpack_from("<H", data, 254)[0] if wide else 32
    blocks = blocks_low | (struct.unpack_from("<I", data, 0x150)[0] << 32 if wide else 0)
    if incompatible & ~_KNOWN:
        raise Unreadable(f"it is ext4 with features that are not known here ({incompatible & ~_KNOWN:#x})")
    sane = (
        block_bits <= 6
        and inode_bytes >= 128
        and inode_bytes & (inode_bytes - 1) == 0
        and inode_bytes <= 1024 << block_bits
        and 32 <= descriptor_bytes <= 1024
        and 0 < inodes_per_group <= 1 << 20
        and blocks_per_group > 0
        and first_block <= 1
        and blocks > first_block
    )
    if not sane:
        raise Unreadable("its superblock contradicts itself")
    return Superblock(
        block_bytes=1024 << block_bits,
        blocks=blocks,
        inode_bytes=inode_bytes,
        inodes_per_group=inodes_per_group,
        first_inode=struct.unpack_from("<I", data, 84)[0] if revision else 11,
        first_block=first_block,
        blocks_per_group=blocks_per_group,
        descriptor_bytes=descriptor_bytes,
        first_meta_group=struct.unpack_from("<I", data, 260)[0] if incompatible & _META_BG else -1,
        groups_summed=bool(read_only & _GROUPS_SUMMED),
        needs_recovery=bool(incompatible & _RECOVER),
        journal=struct.unpack_from("<I", data, 224)[0] if revision else 0,
        types_in_names=bool(incompatible & _FILE_TYPE),
        label=data[120:136].split(b"\0")[0].decode("utf-8", "replace"),
    )


def read_groups(read: Read, super_: Superblock) -> list[Group]:
    """All groups, in order."""
    count = -(-(super_.blocks - super_.first_block) // super_.blocks_per_group)
    if count > _MOST_GROUPS:
        raise Unreadable(f"it says that it has {count} groups of blocks")
    size = super_.descriptor_bytes
    per_block = super_.block_bytes // size
    groups = []
    for number in range(-(-count // per_block)):
        data = read(_descriptors_at(super_, number, per_block) * super_.block_bytes, super_.block_bytes)
        for index in range(min(per_block, count - number * per_block)):
            groups.append(_group(super_, data[index * size : (index + 1) * size]))
    return groups


def _descriptors_at(super_: Superblock, number: int, per_block: int) -> int:
    if super_.first_meta_group < 0 or number < super_.first_meta_group:
        return super_.first_block + 1 + number
    # With meta_bg the first group of each such set holds its descriptors, after its copy of the superblock. Where
    # sparse copies leave none there, the kernel's rule is powers of 3, 5 and 7.
    group = number * per_block
    return super_.first_block + group * super_.blocks_per_group + (1 if _has_copy(group) else 0)


def _has_copy(group: int) -> bool:
    if group <= 1:
        return True
    for base in (3, 5, 7):
        power = base
        while power < group:
            power *= base
        if power == group:
            return True
    return False


def _group(super_: Superblock, data: bytes) -> Group:
    (table,) = struct.unpack_from("<I", data, 8)
    flags, unused = struct.unpack_from("<H", data, 18)[0], struct.unpack_from("<H", data, 28)[0]
    if len(data) >= 64:
        table |= struct.unpack_from("<I", data, 40)[0] << 32
        unused |= struct.unpack_from("<H", data, 50)[0] << 16
    used = super_.inodes_per_group
    if super_.groups_summed:
        used = 0 if flags & _INODE_UNINITIALISED else max(0, used - unused)
    return Group(table, used)
