"""How a volume is made: never over one that is there, never over data whose sidecar was lost."""

from __future__ import annotations

from collections.abc import Callable

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import ImageId, SystemId
from forkbed.core.systems.spec import ResolvedMachine, ResolvedVolume, VolumeOrigin
from forkbed.core.systems.steps import Effect
from forkbed.drivers.volumes.records import LayerFile, Owner, VolumeRecord
from forkbed.drivers.volumes.shelf import Shelf


def owner_of(
    system_id: SystemId, machine: ResolvedMachine, volume: ResolvedVolume, image_id: ImageId
) -> Owner:
    """Whose the volume is to be."""
    return Owner(
        volume_id=volume.id,
        system_id=system_id,
        machine_id=machine.id,
        machine_name=machine.name,
        name=volume.name,
        size_bytes=volume.size_bytes,
        image_id=image_id,
    )


def make_volume(
    shelf: Shelf, owner: Owner, origin: VolumeOrigin | None, below: Callable[[], tuple[LayerFile, ...]]
) -> Effect:
    """Make an empty volume on the layers that `below` tells, asked only if it is not there.

    CONFLICT if one of that id exists that is another, or if its file is there without a sidecar.
    """
    with shelf.lock:
        present = shelf.volume(owner.volume_id)
        if present is not None:
            _refuse_other(present, owner, origin)
            return Effect.ALREADY
        layers = below()
        _refuse_lost_data(shelf, owner)
        active = shelf.fresh_layer(owner.volume_id)
        record = VolumeRecord(owner, (active, *layers), origin)
        shelf.write_with_layer(record, layers[0] if layers else None)
        return Effect.CHANGED


def _refuse_lost_data(shelf: Shelf, owner: Owner) -> None:
    lost = [path for path in shelf.stray_layers() if path.name.startswith(f"{owner.volume_id}.")]
    if lost:
        raise OperationalError(
            Kind.CONFLICT,
            str(lost[0]),
            "the file has lost its sidecar, so nobody knows whose data it holds",
            "move the file away, or restore the sidecar beside it",
        )


def _refuse_other(present: VolumeRecord, wanted: Owner, origin: VolumeOrigin | None) -> None:
    is_there = present.owner
    for what, is_now, should_be in (
        ("size", f"{is_there.size_bytes} bytes", f"{wanted.size_bytes} bytes"),
        ("image", is_there.image_id or "none", wanted.image_id or "none"),
        ("machine", is_there.machine_id, wanted.machine_id),
        ("origin", _told(present.origin), _told(origin)),
    ):
        if is_now != should_be:
            raise OperationalError(
                Kind.CONFLICT,
                present.subject,
                f"it exists with another {what}: {is_now}, not {should_be}",
                "name it in --destroy to make it anew, or keep what it has",
            )


def _told(origin: VolumeOrigin | None) -> str:
    return f"volume {origin.volume_id} at snapshot {origin.snapshot_id}" if origin else "none"
