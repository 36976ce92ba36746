"""`ports.volumes` as qcow2 files: a root volume is an overlay on its image, a data volume stands alone.

A cut puts a new active layer in front of a volume's chain (`cuts`), a fold takes layers out of it (`folding`). What
the files and their sidecars are is told in `shelf` and `records`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import ImageId, SystemId, VolumeId
from forkbed.base.units import format_size
from forkbed.core.systems.spec import ResolvedMachine, ResolvedVolume
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import VolumeView
from forkbed.drivers.volumes import layer_files
from forkbed.drivers.volumes.cuts import OverlayCuts
from forkbed.drivers.volumes.folding import OverlayFolding
from forkbed.drivers.volumes.making import make_volume, owner_of
from forkbed.drivers.volumes.records import LayerFile, VolumeRecord, sidecar_name
from forkbed.drivers.volumes.shelf import Shelf
from forkbed.ports.hypervisor import DiskAttachment
from forkbed.ports.volumes import BaseImage

_SERIAL_LENGTH = 20  # what virtio-blk shows of a serial number


class OverlayVolumes(OverlayCuts, OverlayFolding):
    """The volumes below one directory, as `Volumes` and `VolumeCuts`. Safe to call from any thread."""

    def __init__(self, directory: Path) -> None:
        """Make the directory if it is missing, and finish what a controller that died left undone."""
        self._shelf = Shelf(directory)

    def volumes(self) -> Sequence[VolumeView]:
        """All finished volumes, by id."""
        return [_view(record) for record in self._shelf.volumes()]

    def create(
        self, system_id: SystemId, machine: ResolvedMachine, volume: ResolvedVolume, image: BaseImage | None
    ) -> Effect:
        """Make the volume unless it is there. See `ports.volumes`."""
        owner = owner_of(system_id, machine, volume, image.image_id if image else ImageId(""))
        below = LayerFile(image.path, image.format) if image else None

        def origin() -> tuple[LayerFile, ...]:
            if image is not None and volume.size_bytes < image.size_bytes:
                raise OperationalError(
                    Kind.UNSAFE,
                    f"volume {machine.name}/{volume.name}",
                    f"{format_size(volume.size_bytes)} is smaller than its image's "
                    f"{format_size(image.size_bytes)}",
                    "make the root volume at least as large as the image",
                )
            return (below,) if below else ()

        return make_volume(self._shelf, owner, None, origin)

    def grow(self, volume: ResolvedVolume) -> Effect:
        """Enlarge the volume. See `ports.volumes`."""
        with self._shelf.lock:
            record = self._shelf.settled(volume.id, "grow")
            size_bytes = record.owner.size_bytes
            if volume.size_bytes == size_bytes:
                return Effect.ALREADY
            if volume.size_bytes < size_bytes:
                raise OperationalError(
                    Kind.UNSAFE,
                    record.subject,
                    f"it has {format_size(size_bytes)}; "
                    f"shrinking it to {format_size(volume.size_bytes)} would cut data off",
                    "keep its size, or name it in --destroy and make it anew",
                )
            layer_files.resize(record.layers, volume.size_bytes, record.subject)
            owner = replace(record.owner, size_bytes=volume.size_bytes)
            self._shelf.write(replace(record, owner=owner))
            return Effect.CHANGED

    def remove(self, volume_id: VolumeId) -> Effect:
        """Destroy the volume, with those of its layers that no kept cut and no other volume stands on."""
        with self._shelf.lock:
            record = self._shelf.record(volume_id)
            if record is None:
                return Effect.ALREADY
            self._shelf.refuse_worked_on(record)
            self._shelf.give_up([sidecar_name(record)])
            return Effect.CHANGED

    def attachment(self, volume: ResolvedVolume) -> DiskAttachment:
        """The volume's active file and the chain that its sidecar records.

        While a cut is not finished, that begins with its overlay: an unused one changes nothing, and a machine that
        ended may have written to it.
        """
        record = self._shelf.existing(volume.id)
        active, *below = record.attached
        return DiskAttachment(
            serial=disk_serial(record.owner.name),
            path=active.path,
            format=active.format,
            chain=tuple((layer.path, layer.format) for layer in below),
        )


def disk_serial(volume_name: str) -> str:
    """The serial number by which the guest finds the volume: `root`, `vol-NAME` (cut to 20 characters)."""
    return volume_name if volume_name == "root" else f"vol-{volume_name}"[:_SERIAL_LENGTH]


def _view(record: VolumeRecord) -> VolumeView:
    owner = record.owner
    return VolumeView(
        volume_id=owner.volume_id,
        system_id=owner.system_id,
        size_bytes=owner.size_bytes,
        machine_id=owner.machine_id,
        machine_name=owner.machine_name,
        name=owner.name,
        backing=owner.image_id,
    )
