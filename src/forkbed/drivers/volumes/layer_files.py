"""The files of layers: making, enlarging, measuring.

Tools are always told the whole chain. The name of a backing file in a header is written for people, never followed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import processes
from forkbed.drivers.durable import temporary_beside, write_new
from forkbed.drivers.volumes.records import LayerFile

_TOOL_TIMEOUT_S = 120.0
_LAYERS_REMEMBERED = 32  # more than the disks of a system that is forked often
_SMALL_BYTES = 1024**2
_BLOCK_BYTES = 512  # what st_blocks counts in
_HEADER = struct.Struct(">4s32xIQ")  # magic, entries of the L1 table and where it is
_MAGIC = b"QFI\xfb"
_MOST_TABLE_BYTES = 32 * 1024**2  # QEMU opens no larger one
MAKE_ROOM = (
    "if the disk is full, delete snapshots or discard forks that nobody needs: that works without space"
)


_Alike = tuple[str, LayerFile | None, int]
"""Format, what it stands on, size in bytes: all that an empty layer depends on."""


class EmptyLayers:
    """Makes empty layers. `qemu-img` is asked once for all that stand on the same file and are of one size.

    Such layers are the same byte for byte, and a cut needs several: one for the machine, one for each fork. Only the
    first has the hint of 1 MiB for extents that `qemu-img` gives its files on XFS.
    """

    def __init__(self) -> None:
        self._made: dict[_Alike, bytes] = {}

    @contextmanager
    def beside(
        self, layer: LayerFile, below: LayerFile | None, size_bytes: int, subject: str
    ) -> Iterator[Path]:
        """One on `below` under a temporary name beside `layer`, removed if it is not moved away.

        `below` is not opened: its machine may be running. FAULT if it is not there. Not for several threads at once.
        """
        if below is not None and not Path(below.path).exists():
            raise OperationalError(
                Kind.FAULT, subject, f"what it stands on is missing: {below.path}", "put the file back"
            )
        temporary = temporary_beside(Path(layer.path))
        alike = (layer.format, below, size_bytes)
        try:
            if alike in self._made:
                write_new(temporary, self._made[alike])
            else:
                _create(temporary, layer.format, below, size_bytes, subject)
                self._remember(alike, temporary)
            yield temporary
        except OSError as error:
            raise OperationalError(
                Kind.FAULT, subject, f"cannot be made: {error.strerror}", MAKE_ROOM
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _remember(self, alike: _Alike, made: Path) -> None:
        if made.stat().st_size <= _SMALL_BYTES:
            self._made[alike] = made.read_bytes()
        if len(self._made) > _LAYERS_REMEMBERED:
            del self._made[next(iter(self._made))]  # the oldest


def _create(path: Path, layer_format: str, below: LayerFile | None, size_bytes: int, subject: str) -> None:
    backing = ["-u", "-b", below.path, "-F", below.format] if below else []
    processes.run(
        ["qemu-img", "create", "-q", "-f", layer_format, *backing, path, str(size_bytes)],
        timeout_s=_TOOL_TIMEOUT_S,
        subject=subject,
        remedy=MAKE_ROOM,
    )
    path.chmod(0o600)


def opened_as(layers: Sequence[LayerFile]) -> dict[str, object]:
    """How QEMU's block layer is to open the first of `layers` on the others, as the arguments of `blockdev-add`."""
    layer, *below = layers
    options: dict[str, object] = {
        "driver": layer.format,
        "file": {"driver": "file", "filename": layer.path},
    }
    if layer.format == "qcow2":
        options["backing"] = opened_as(below) if below else None
    return options


def resize(layers: Sequence[LayerFile], size_bytes: int, subject: str) -> None:
    """Enlarge the disk that the first of `layers` shows. CONFLICT while a machine uses it."""
    done = processes.run(
        ["qemu-img", "resize", "-q", f"json:{json.dumps(opened_as(layers))}", str(size_bytes)],
        timeout_s=_TOOL_TIMEOUT_S,
        accept=None,
        subject=subject,
    )
    if done.status == 0:
        return
    if "lock" in done.stderr.decode(errors="replace"):
        raise OperationalError(
            Kind.CONFLICT,
            subject,
            "cannot grow while its machine runs",
            "stop the machine first (`up --restart` does)",
            details=done.complaint,
        )
    raise processes.failure(done, subject=subject)


def is_empty(layer: LayerFile) -> bool:
    """Whether a qcow2 layer at rest holds nothing, so that it shows what lies below it.

    Then its first table of clusters (L1) has no entry; sizes are taken from the header, paths never.
    """
    with Path(layer.path).open("rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return False
        magic, entries, table = _HEADER.unpack(header)
        table_bytes = 8 * entries
        if magic != _MAGIC or table_bytes > _MOST_TABLE_BYTES:
            return False
        file.seek(table)
        return file.read(table_bytes) == bytes(table_bytes)


def allocated_bytes(path: str) -> int:
    """What the file takes on disk; 0 if it is not there."""
    try:
        return Path(path).stat().st_blocks * _BLOCK_BYTES
    except FileNotFoundError:
        return 0
