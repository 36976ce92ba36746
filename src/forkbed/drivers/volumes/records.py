"""What the sidecars of volumes and of kept cuts say, and how that is written down.

`ID.json` is a volume's: whose it is, how large, which file is active and which layers lie below. `ID.SNAPSHOT.cut` is
a kept cut's, with a chain of its own. Files in the volumes' own directory are written by their bare name, images by
their path. A guest owns the bytes of its disk, the header included once a layer was ever attached raw, so no path is
ever taken from a qcow2 header: these records alone say what a chain is made of.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import ImageId, MachineId, SnapshotId, SystemId, VolumeId
from forkbed.core.systems.spec import VolumeOrigin

LAYER_SUFFIX = ".qcow2"
VOLUME_SUFFIX = ".json"
CUT_SUFFIX = ".cut"

_ID = r"[A-Za-z0-9][A-Za-z0-9-]{0,99}"
_PLAIN_ID = re.compile(_ID)
_LAYER_NAME = re.compile(rf"{_ID}(\.{_ID}){{0,2}}\.qcow2")


@dataclass(frozen=True, slots=True)
class LayerFile:
    """A file of a chain, by its full path."""

    path: str
    format: str = "qcow2"

    def exists(self) -> bool:
        return Path(self.path).exists()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A cut that is not finished, and the overlay that was made for it."""

    snapshot_id: SnapshotId
    overlay: LayerFile


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose volume it is, and what it is called there. `image_id` is "" for one that began blank."""

    volume_id: VolumeId
    system_id: SystemId
    machine_id: MachineId
    machine_name: str
    name: str
    size_bytes: int
    image_id: ImageId | str


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """A volume. `layers` is its chain, active file first.

    `leaving` are files that it does not stand on, no longer or not yet: they are removed, unless something else
    stands on them, and named here until they are gone.
    """

    owner: Owner
    layers: tuple[LayerFile, ...]
    origin: VolumeOrigin | None = None
    prepared: Prepared | None = None
    leaving: tuple[LayerFile, ...] = ()

    @property
    def volume_id(self) -> VolumeId:
        return self.owner.volume_id

    @property
    def active(self) -> LayerFile:
        return self.layers[0]

    @property
    def subject(self) -> str:
        """The volume as errors call it."""
        return f"volume {self.owner.machine_name}/{self.owner.name}"

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(layer.path for layer in self.layers)

    @property
    def attached(self) -> tuple[LayerFile, ...]:
        """The chain, with the overlay of an unfinished cut in front."""
        return (self.prepared.overlay, *self.layers) if self.prepared else self.layers

    @property
    def files(self) -> tuple[LayerFile, ...]:
        """All that the record names."""
        return (*self.attached, *self.leaving)


@dataclass(frozen=True, slots=True)
class CutRecord:
    """A volume as it was at the cut of a snapshot. `layers` is its chain; the first was active until the cut."""

    snapshot_id: SnapshotId
    owner: Owner  # as it was then
    layers: tuple[LayerFile, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(layer.path for layer in self.layers)

    @property
    def files(self) -> tuple[LayerFile, ...]:
        """All that the record names."""
        return self.layers


Record = VolumeRecord | CutRecord


def plain(identifier: str) -> str:
    """The id, for use in a file's name. `ValueError` if it is none."""
    if not _PLAIN_ID.fullmatch(identifier):
        raise ValueError(f"not an id: {identifier!r}")
    return identifier


def is_layer_name(name: str) -> bool:
    """Whether a file of that name could be a layer of ours."""
    return _LAYER_NAME.fullmatch(name) is not None


def sidecar_name(record: Record) -> str:
    """The name of the record's sidecar."""
    if isinstance(record, CutRecord):
        return cut_sidecar_name(record.owner.volume_id, record.snapshot_id)
    return f"{plain(record.volume_id)}{VOLUME_SUFFIX}"


def cut_sidecar_name(volume_id: VolumeId, snapshot_id: SnapshotId) -> str:
    """The name of the sidecar of that cut."""
    return f"{plain(volume_id)}.{plain(snapshot_id)}{CUT_SUFFIX}"


def encode(record: Record, directory: Path) -> bytes:
    """The sidecar's content."""
    document: dict[str, Any] = asdict(record.owner)
    if isinstance(record, CutRecord):
        document["snapshot_id"] = record.snapshot_id
        document["layers"] = _written(record.layers, directory)
    else:
        document["active"] = _name(record.active.path, directory)
        document["layers"] = _written(record.layers[1:], directory)
        document["leaving"] = _written(record.leaving, directory)
        document["origin"] = asdict(record.origin) if record.origin else None
        document["prepared"] = record.prepared and {
            "snapshot_id": record.prepared.snapshot_id,
            "overlay": _name(record.prepared.overlay.path, directory),
        }
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def decode_volume(path: Path, data: bytes) -> VolumeRecord:
    """The record of a volume; also one that was written before there were cuts. FAULT if it is none."""
    try:
        document = json.loads(data)
        directory = path.parent
        below = _read(document.pop("layers"), directory)
        leaving = _read(document.pop("leaving", ()), directory)
        active = document.pop("active", f"{document['volume_id']}{LAYER_SUFFIX}")
        origin, prepared = document.pop("origin", None), document.pop("prepared", None)
        return VolumeRecord(
            owner=Owner(**document),
            layers=(_own(active, directory), *below),
            origin=VolumeOrigin(**origin) if origin else None,
            prepared=prepared
            and Prepared(SnapshotId(prepared["snapshot_id"]), _own(prepared["overlay"], directory)),
            leaving=leaving,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unreadable(path, error) from error


def decode_cut(path: Path, data: bytes) -> CutRecord:
    """The record of a kept cut. FAULT if it is none."""
    try:
        document = json.loads(data)
        snapshot_id = SnapshotId(document.pop("snapshot_id"))
        layers = _read(document.pop("layers"), path.parent)
        return CutRecord(snapshot_id, Owner(**document), layers)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unreadable(path, error) from error


def _written(layers: tuple[LayerFile, ...], directory: Path) -> list[dict[str, str]]:
    return [{"path": _name(layer.path, directory), "format": layer.format} for layer in layers]


def _read(layers: Any, directory: Path) -> tuple[LayerFile, ...]:
    return tuple(
        LayerFile(layer["path"], layer["format"])
        if layer["path"].startswith("/")
        else _own(layer["path"], directory)
        for layer in layers
    )


def _own(name: str, directory: Path) -> LayerFile:
    if not is_layer_name(name):
        raise ValueError(f"{name!r} is not the name of a layer")
    return LayerFile(str(directory / name))


def _name(path: str, directory: Path) -> str:
    parent, _, name = path.rpartition("/")
    return name if parent == str(directory) else path


def _unreadable(path: Path, error: Exception) -> OperationalError:
    return OperationalError(
        Kind.FAULT, str(path), f"the volume's sidecar cannot be read: {error}", "restore the file"
    )
