"""`ports.volumes` as qcow2 files: a root volume is an overlay on its image, a data volume stands alone.

Beside each `ID.qcow2` lies `ID.json`, which says whose it is, how large, and which layers it stands on, the
active one first. A guest owns the bytes of its disk, the header included once a layer was ever attached raw, so no
path is ever taken from a qcow2 header: the sidecar alone says what a chain is made of. Later cuts put a new active
layer in front of that list.

The sidecar is written before the file gets its name and removed after it. A sidecar without its file is a
volume that was never finished, or already removed; it counts as absent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId, SystemId, VolumeId
from forkbed.base.units import format_size
from forkbed.core.systems.spec import ResolvedMachine, ResolvedVolume
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import VolumeView
from forkbed.drivers import processes
from forkbed.drivers.durable import (
    put_in_place,
    read_files,
    remove_durably,
    sweep_temporaries,
    temporary_beside,
    write_durably,
)
from forkbed.ports.hypervisor import DiskAttachment
from forkbed.ports.volumes import BaseImage

_SERIAL_LENGTH = 20  # what virtio-blk shows of a serial number
_TOOL_TIMEOUT_S = 120.0
_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}")


@dataclass(frozen=True, slots=True)
class _Layer:
    path: str
    format: str


@dataclass(frozen=True, slots=True)
class _Record:
    """What the sidecar says. `layers` is the backing chain below the active file, top first."""

    volume_id: VolumeId
    system_id: SystemId
    machine_id: MachineId
    machine_name: str
    name: str
    size_bytes: int
    image_id: str
    layers: tuple[_Layer, ...]


class OverlayVolumes:
    """The volumes below one directory. Calls about different volumes may run at the same time."""

    def __init__(self, directory: Path) -> None:
        """Make the directory if it is missing, and remove what a controller that died left half-written."""
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        sweep_temporaries(directory)

    def volumes(self) -> Sequence[VolumeView]:
        """All finished volumes, by id."""
        records = (self._parse(path, data) for path, data in read_files(self._directory, "*.json"))
        return [_view(record) for record in records if self._file(record.volume_id).exists()]

    def create(
        self, system_id: SystemId, machine: ResolvedMachine, volume: ResolvedVolume, image: BaseImage | None
    ) -> Effect:
        """Make the volume unless it is there. See `ports.volumes`."""
        wanted = _Record(
            volume_id=volume.id,
            system_id=system_id,
            machine_id=machine.id,
            machine_name=machine.name,
            name=volume.name,
            size_bytes=volume.size_bytes,
            image_id=image.image_id if image else "",
            layers=(_Layer(image.path, image.format),) if image else (),
        )
        subject = f"volume {machine.name}/{volume.name}"
        present = self._finished(volume.id)
        if present is not None:
            _refuse_other(subject, present, wanted)
            return Effect.ALREADY
        if image is not None and volume.size_bytes < image.size_bytes:
            raise OperationalError(
                Kind.UNSAFE,
                subject,
                f"{format_size(volume.size_bytes)} is smaller than its image's {format_size(image.size_bytes)}",
                "make the root volume at least as large as the image",
            )
        self._write_record(wanted)
        self._make_file(subject, wanted)
        return Effect.CHANGED

    def grow(self, volume: ResolvedVolume) -> Effect:
        """Enlarge the volume. See `ports.volumes`."""
        record = self._existing(volume.id)
        subject = f"volume {record.machine_name}/{record.name}"
        if volume.size_bytes == record.size_bytes:
            return Effect.ALREADY
        if volume.size_bytes < record.size_bytes:
            raise OperationalError(
                Kind.UNSAFE,
                subject,
                f"it has {format_size(record.size_bytes)}; "
                f"shrinking it to {format_size(volume.size_bytes)} would cut data off",
                "keep its size, or name it in --destroy and make it anew",
            )
        self._resize(subject, self._file(volume.id), volume.size_bytes)
        self._write_record(replace(record, size_bytes=volume.size_bytes))
        return Effect.CHANGED

    def remove(self, volume_id: VolumeId) -> Effect:
        """Destroy the volume's data and its sidecar."""
        try:
            removed_file = remove_durably(self._file(volume_id))
            removed_record = remove_durably(self._sidecar(volume_id))
        except OSError as error:
            raise OperationalError(
                Kind.FAULT, f"volume {volume_id}", f"cannot be removed: {error.strerror}"
            ) from error
        return Effect.CHANGED if removed_file or removed_record else Effect.ALREADY

    def attachment(self, volume: ResolvedVolume) -> DiskAttachment:
        """The volume's active file and the chain that its sidecar records."""
        record = self._existing(volume.id)
        return DiskAttachment(
            serial=disk_serial(record.name),
            path=str(self._file(volume.id)),
            format="qcow2",
            chain=tuple((layer.path, layer.format) for layer in record.layers),
        )

    def _make_file(self, subject: str, record: _Record) -> None:
        path = self._file(record.volume_id)
        temporary = temporary_beside(path)
        backing = record.layers[0] if record.layers else None
        backing_words = ["-b", backing.path, "-F", backing.format] if backing else []
        try:
            processes.run(
                [
                    "qemu-img",
                    "create",
                    "-q",
                    "-f",
                    "qcow2",
                    *backing_words,
                    temporary,
                    str(record.size_bytes),
                ],
                timeout_s=_TOOL_TIMEOUT_S,
                subject=subject,
                remedy="look for space, and that the image's file is there",
            )
            temporary.chmod(0o600)
            put_in_place(temporary, path)
        except OSError as error:
            raise OperationalError(Kind.FAULT, subject, f"cannot be made: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)

    def _resize(self, subject: str, path: Path, size_bytes: int) -> None:
        done = processes.run(
            ["qemu-img", "resize", "-q", "-f", "qcow2", path, str(size_bytes)],
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

    def _existing(self, volume_id: VolumeId) -> _Record:
        record = self._finished(volume_id)
        if record is None:
            raise OperationalError(
                Kind.NOT_FOUND,
                f"volume {volume_id}",
                "there is no such volume on this host",
                "`forkbed up` makes the volumes that are missing",
            )
        return record

    def _finished(self, volume_id: VolumeId) -> _Record | None:
        """The record of a volume whose file is there too. A file without a record is not ours to touch."""
        sidecar, file = self._sidecar(volume_id), self._file(volume_id)
        if not file.exists():
            return None
        if not sidecar.exists():
            raise OperationalError(
                Kind.CONFLICT,
                str(file),
                "the file has lost its sidecar, so nobody knows whose data it holds",
                "move the file away, or restore the sidecar beside it",
            )
        return self._record_at(sidecar)

    def _record_at(self, path: Path) -> _Record:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from error
        return self._parse(path, data)

    def _parse(self, path: Path, data: bytes) -> _Record:
        try:
            content = json.loads(data)
            layers = tuple(_Layer(**layer) for layer in content.pop("layers"))
            return _Record(**content, layers=layers)
        except (ValueError, TypeError, KeyError) as error:
            raise _unreadable(path, error) from error

    def _write_record(self, record: _Record) -> None:
        text = json.dumps(asdict(record), indent=1, sort_keys=True)
        write_durably(self._sidecar(record.volume_id), text.encode() + b"\n")

    def _file(self, volume_id: VolumeId) -> Path:
        return self._directory / f"{_plain(volume_id)}.qcow2"

    def _sidecar(self, volume_id: VolumeId) -> Path:
        return self._directory / f"{_plain(volume_id)}.json"


def disk_serial(volume_name: str) -> str:
    """The serial number by which the guest finds the volume: `root`, `vol-NAME` (cut to 20 characters)."""
    return volume_name if volume_name == "root" else f"vol-{volume_name}"[:_SERIAL_LENGTH]


def _plain(volume_id: VolumeId) -> str:
    if not _PLAIN_ID.fullmatch(volume_id):
        raise ValueError(f"not a volume id: {volume_id!r}")
    return volume_id


def _refuse_other(subject: str, present: _Record, wanted: _Record) -> None:
    for what, is_now, should_be in (
        ("size", f"{present.size_bytes} bytes", f"{wanted.size_bytes} bytes"),
        ("image", present.image_id or "none", wanted.image_id or "none"),
        ("machine", present.machine_id, wanted.machine_id),
    ):
        if is_now != should_be:
            raise OperationalError(
                Kind.CONFLICT,
                subject,
                f"it exists with another {what}: {is_now}, not {should_be}",
                "name it in --destroy to make it anew, or keep what it has",
            )


def _view(record: _Record) -> VolumeView:
    return VolumeView(
        volume_id=record.volume_id,
        system_id=record.system_id,
        size_bytes=record.size_bytes,
        machine_id=record.machine_id,
        machine_name=record.machine_name,
        name=record.name,
        backing=record.image_id,
    )


def _unreadable(path: Path, error: Exception) -> OperationalError:
    return OperationalError(
        Kind.FAULT, str(path), f"the volume's sidecar cannot be read: {error}", "restore the file"
    )
