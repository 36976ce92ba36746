"""What real qcow2 files hold, read without QEMU and without following a header: quick enough after every step."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from forkbed.drivers import processes
from forkbed.drivers.volumes.layer_files import opened_as
from forkbed.drivers.volumes.records import LayerFile

_OFFSET_BITS = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_ZERO = 1


def read(paths: Sequence[str]) -> bytes:
    """What a chain shows, active layer first."""
    layers = [_layer(path) for path in paths]
    content = bytearray(layers[0].size)
    for layer in reversed(layers):
        # a layer that is shorter than the one above it shows nothing beyond its end
        for offset, cluster in layer.clusters:
            content[offset : offset + len(cluster)] = cluster
    return bytes(content[: layers[0].size])


def read_by_qemu(paths: Sequence[str], scratch: Path) -> bytes:
    """The same, as QEMU reads it."""
    options = opened_as([LayerFile(path) for path in paths])
    target = scratch / "read.raw"
    processes.run(["qemu-img", "convert", "-U", "-O", "raw", f"json:{json.dumps(options)}", target])
    return target.read_bytes()


def write(paths: Sequence[str], writes: Sequence[tuple[int, int, int]]) -> None:
    """Let QEMU write to the active layer: (offset, length, pattern) each. Pattern 0 writes zeroes."""
    commands = [
        word
        for offset, length, pattern in writes
        for word in ("-c", f"write {'-z' if pattern == 0 else f'-P {pattern}'} {offset} {length}")
    ]
    options = opened_as([LayerFile(path) for path in paths])
    done = processes.run(["qemu-io", *commands, f"json:{json.dumps(options)}"])
    assert b"fail" not in done.stdout + done.stderr, done.stdout + done.stderr


class _Layer:
    def __init__(self, data: bytes) -> None:
        assert data[:4] == b"QFI\xfb"
        bits, self.size = struct.unpack(">IQ", data[20:32])
        entries, table = struct.unpack(">I", data[36:40])[0], struct.unpack(">Q", data[40:48])[0]
        assert entries == 1, "these tests' disks are small"
        self.clusters: list[tuple[int, bytes]] = []
        cluster_bytes = 1 << bits
        (l1_entry,) = struct.unpack(">Q", data[table : table + 8])
        if not (l2_table := l1_entry & _OFFSET_BITS):
            return
        for index in range(-(-self.size // cluster_bytes)):
            (entry,) = struct.unpack(">Q", data[l2_table + 8 * index : l2_table + 8 * index + 8])
            assert not entry & _COMPRESSED
            if entry & _ZERO:
                self.clusters.append((index * cluster_bytes, bytes(cluster_bytes)))
            elif start := entry & _OFFSET_BITS:
                held = data[start : start + cluster_bytes].ljust(cluster_bytes, b"\0")
                self.clusters.append((index * cluster_bytes, held))


def _layer(path: str) -> _Layer:
    status = Path(path).stat()
    return _parsed(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _parsed(path: str, _size: int, _changed: int) -> _Layer:
    return _Layer(Path(path).read_bytes())
