"""Logical volumes within one disk: the metadata that LVM2 keeps at the start of a physical volume, as text.

Linear and striped volumes whose parts all lie on this disk are read; every other one is told with what it is.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from forkbed.core.diffs.names import shown
from forkbed.drivers.filesystems.places import Place, Read, Segment
from forkbed.drivers.filesystems.problems import Unreadable

_SECTOR = 512
_MOST_METADATA_BYTES = 16 * 1024 * 1024
_MOST_SEGMENTS = 200_000
_DEEPEST = 32
_TOKEN = re.compile(r'\s+|#[^\n]*|([A-Za-z0-9_.+-]+|"(?:[^"\\]|\\.)*"|[{}\[\]=,])')


@dataclass(frozen=True, slots=True)
class Volumes:
    """What a volume group holds. `problems` says which volumes cannot be read, and why."""

    places: tuple[Place, ...]
    problems: tuple[str, ...]


def logical_volumes(physical: Place, disk: Read) -> Volumes:
    """The logical volumes on a physical volume, as places of the disk that it lies on."""
    read = physical.reader(disk)
    identifier, metadata = _metadata(read)
    if metadata is None:
        return Volumes((), (f"{physical.where}: an LVM physical volume that belongs to no group",))
    name, group = _group(metadata)
    extent_bytes = _number(group, "extent_size") * _SECTOR
    if extent_bytes <= 0:
        raise Unreadable("the metadata of its volume group is damaged")
    starts: dict[
        str, int | None
    ] = {}  # of each physical volume the first byte of its extents; None: elsewhere
    for label, physical_volume in _sections(group, "physical_volumes").items():
        here = str(physical_volume.get("id", "")).replace("-", "") == identifier
        starts[label] = _number(physical_volume, "pe_start") * _SECTOR if here else None
    places, problems = [], []
    for label, volume in _sections(group, "logical_volumes").items():
        where = f"logical volume {shown(name.encode())}/{shown(label.encode())}"
        if "VISIBLE" not in _flags(volume):
            continue
        try:
            segments = tuple(_segments(volume, starts, extent_bytes, physical))
        except Unreadable as reason:
            problems.append(f"{where}: {reason}")
            continue
        places.append(Place(where, segments))
    return Volumes(tuple(places), tuple(problems))


def _segments(
    volume: Mapping[str, object], starts: Mapping[str, int | None], extent_bytes: int, physical: Place
) -> Iterator[Segment]:
    at = made = 0
    for number in range(1, _number(volume, "segment_count") + 1):
        segment = volume.get(f"segment{number}")
        if not isinstance(segment, dict):
            raise Unreadable("its metadata is damaged")
        kind, extents = str(segment.get("type", "")), _number(segment, "extent_count")
        if kind != "striped":
            raise Unreadable(f"it is of the kind {shown(kind.encode())!r}, which is not read here")
        parts = _parts(segment, starts)
        length = extents * extent_bytes
        width = len(parts)
        chunk = _number(segment, "stripe_size") * _SECTOR if width > 1 else length
        if chunk <= 0 or length % width:
            raise Unreadable("its metadata is damaged")
        for position in range(0, length, chunk):
            made += 1
            if made > _MOST_SEGMENTS:
                raise Unreadable(f"it has more than {_MOST_SEGMENTS} segments")
            index = position // chunk
            start, first = parts[index % width]
            place = start + first * extent_bytes + index // width * chunk
            yield from _onto_disk(physical, at + position, place, min(chunk, length - position))
        at += length


def _parts(segment: Mapping[str, object], starts: Mapping[str, int | None]) -> list[tuple[int, int]]:
    """Of each stripe the first byte of its physical volume's extents, and its first extent."""
    listed = segment.get("stripes")
    if not isinstance(listed, list) or not listed or len(listed) % 2:
        raise Unreadable("its metadata is damaged")
    found = []
    for label, first in zip(listed[::2], listed[1::2], strict=True):
        start = starts.get(str(label))
        if start is None:
            raise Unreadable("a part of it lies on another disk")
        if not isinstance(first, int) or first < 0:
            raise Unreadable("its metadata is damaged")
        found.append((start, first))
    return found


def _onto_disk(physical: Place, at: int, start: int, length: int) -> Iterator[Segment]:
    if start < 0 or length <= 0 or start + length > physical.size_bytes:
        raise Unreadable("it leads out of its physical volume")
    for outer in physical.segments:
        begin, end = max(start, outer.at), min(start + length, outer.at + outer.length)
        if begin < end:
            yield Segment(at + begin - start, outer.disk + begin - outer.at, end - begin)


def _metadata(read: Read) -> tuple[str, str | None]:
    """The id of the physical volume, and the text of its group's metadata."""
    head = read(0, 4 * _SECTOR)
    for sector in range(4):
        label = head[sector * _SECTOR : (sector + 1) * _SECTOR]
        if label[:8] == b"LABELONE":
            break
    else:
        raise Unreadable("its LVM label is damaged")
    at = struct.unpack_from("<I", label, 20)[0]
    if not 32 <= at <= _SECTOR - 72:
        raise Unreadable("its LVM label is damaged")
    identifier = label[at : at + 32].decode("ascii", "replace")
    areas = list(_areas(label, at + 40))
    for area in areas:
        text = _area_text(read, area)
        if text is not None:
            return identifier, text
    return identifier, None


def _areas(label: bytes, at: int) -> Iterator[int]:
    """Where metadata areas begin: the list after that of the data areas."""
    lists_ended = 0
    while at + 16 <= len(label) and lists_ended < 2:
        offset, _ = struct.unpack_from("<QQ", label, at)
        at += 16
        if not offset:
            lists_ended += 1
        elif lists_ended == 1:
            yield offset


def _area_text(read: Read, area: int) -> str | None:
    header = read(area, _SECTOR)
    if header[4:20] != b" LVM2 x[5A%r0N*>":
        raise Unreadable("its LVM metadata is damaged")
    start, size = struct.unpack_from("<QQ", header, 24)
    offset, length = struct.unpack_from("<QQ", header, 40)
    if not offset or not length:
        return None
    if start != area or size <= _SECTOR or length > min(size, _MOST_METADATA_BYTES) or offset >= size:
        raise Unreadable("its LVM metadata is damaged")
    first = read(area + offset, min(length, size - offset))
    rest = read(area + _SECTOR, length - len(first)) if len(first) < length else b""  # it is a ring
    return (first + rest).rstrip(b"\0").decode("utf-8", "replace")


def _group(text: str) -> tuple[str, Mapping[str, object]]:
    for name, value in _parse(text).items():
        if isinstance(value, dict) and "physical_volumes" in value:
            return name, value
    raise Unreadable("its LVM metadata names no volume group")


def _parse(text: str) -> dict[str, object]:
    """LVM's configuration text: `name = value`, `name { … }`, numbers, strings, lists."""
    tokens = _tokens(text)
    top: dict[str, object] = {}
    stack = [top]
    for token in tokens:
        if token == "}":
            stack.pop()
            if not stack:
                break
            continue
        following = next(tokens, "")
        if following == "{":
            inner: dict[str, object] = {}
            stack[-1][token] = inner
            stack.append(inner)
            if len(stack) > _DEEPEST:
                break
        elif following == "=":
            stack[-1][token] = _value(next(tokens, ""), tokens)
        else:
            break
    else:
        if len(stack) == 1:
            return top
    raise Unreadable("its LVM metadata is damaged")


def _value(token: str, tokens: Iterator[str]) -> object:
    if token != "[":
        return _scalar(token)
    listed = []
    for item in tokens:
        if item == "]":
            break
        if item != ",":
            listed.append(_scalar(item))
    return listed


def _scalar(token: str) -> object:
    if token.startswith('"'):
        return re.sub(r"\\(.)", r"\1", token[1:-1])
    try:
        return int(token)
    except ValueError:
        return token


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Unreadable("its LVM metadata is damaged")
        at = match.end()
        if match[1]:
            yield match[1]


def _sections(group: Mapping[str, object], name: str) -> Mapping[str, Mapping[str, object]]:
    held = group.get(name, {})
    if not isinstance(held, dict):
        raise Unreadable("its LVM metadata is damaged")
    return {label: value for label, value in held.items() if isinstance(value, dict)}


def _flags(volume: Mapping[str, object]) -> list[object]:
    status = volume.get("status", [])
    return status if isinstance(status, list) else [status]


def _number(section: Mapping[str, object], name: str) -> int:
    value = section.get(name)
    if not isinstance(value, int) or value < 0:
        raise Unreadable("its LVM metadata is damaged")
    return value
