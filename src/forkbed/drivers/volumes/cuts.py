"""Cuts of overlay volumes: the layer below a cut is kept, writes go to a new one, forks stand on what was kept.

A kept cut is a chain of its own in a sidecar of its own, so it outlives its volume. When a cut is adopted, the kept
cut is written down before the volume's sidecar moves on to the overlay: after a crash between the two the cut still
counts as prepared, and finishing it again comes to the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import ImageId, SnapshotId, SystemId, VolumeId
from forkbed.base.units import format_size
from forkbed.core.systems.spec import ResolvedMachine, ResolvedVolume, VolumeOrigin
from forkbed.core.systems.steps import Effect
from forkbed.drivers.volumes import layer_files
from forkbed.drivers.volumes.making import make_volume, owner_of
from forkbed.drivers.volumes.records import CutRecord, LayerFile, Prepared, VolumeRecord, sidecar_name
from forkbed.drivers.volumes.shelf import Shelf, prepared_for
from forkbed.ports.volumes import VolumeCutView

_RENEWED = "renewed"


class OverlayCuts:
    """The part of `ports.volumes.VolumeCuts` that is about cuts and what stands on them."""

    _shelf: Shelf

    def prepare_cut(self, volume_id: VolumeId, snapshot_id: SnapshotId) -> str:
        """Make the overlay for the cut. See `ports.volumes`."""
        shelf = self._shelf
        with shelf.lock:
            record = shelf.existing(volume_id)
            if prepared := prepared_for(record, snapshot_id):
                return prepared.overlay.path
            record = shelf.clear_leaving(shelf.settled(volume_id, "be cut"))
            if shelf.cut(snapshot_id, volume_id) is not None:
                raise OperationalError(
                    Kind.CONFLICT, record.subject, f"it was cut for snapshot {snapshot_id} already"
                )
            overlay = shelf.fresh_layer(volume_id, snapshot_id)
            shelf.add_layer(record, overlay, record.active)
            shelf.write(replace(record, prepared=Prepared(snapshot_id, overlay)))
            return overlay.path

    def finish_cut(self, volume_id: VolumeId, snapshot_id: SnapshotId, in_use: str | None) -> Effect:
        """Adopt the overlay or drop it. See `ports.volumes`; FAULT if `in_use` is neither it nor the layer below."""
        shelf = self._shelf
        with shelf.lock:
            record = shelf.record(volume_id)
            prepared = prepared_for(record, snapshot_id)
            if record is None or prepared is None:
                return Effect.ALREADY
            overlay = prepared.overlay
            if in_use not in (None, overlay.path, record.active.path):
                raise OperationalError(
                    Kind.FAULT,
                    record.subject,
                    f"its machine writes to {in_use}, which is neither its active layer nor the overlay "
                    f"of its cut for snapshot {snapshot_id}",
                    "end the machine, then try again",
                )
            if in_use == record.active.path:
                self._forget(snapshot_id, volume_id)
                leaving = (*record.leaving, overlay)
                record = replace(record, prepared=None, leaving=leaving)
            else:
                _refuse_missing(record, overlay)
                shelf.write(CutRecord(snapshot_id, record.owner, record.layers))
                record = replace(record, layers=(overlay, *record.layers), prepared=None)
            shelf.write(record)
            shelf.clear_leaving(record)
            return Effect.CHANGED

    def prepared_cuts(self) -> Mapping[VolumeId, SnapshotId]:
        """Cuts between prepared and finished."""
        return {
            record.volume_id: record.prepared.snapshot_id
            for record in self._shelf.records()
            if record.prepared is not None
        }

    def cuts(self) -> Sequence[VolumeCutView]:
        """All kept cuts, with what removing each gives back."""
        with self._shelf.lock:
            own = self._shelf.own_bytes()
            return [_view(cut, own[cut.snapshot_id, cut.owner.volume_id]) for cut in self._shelf.cuts()]

    def release_cut(self, snapshot_id: SnapshotId) -> Effect:
        """Forget the snapshot's cuts and remove the layers that nothing stands on any more."""
        shelf = self._shelf
        with shelf.lock:
            released = [sidecar_name(cut) for cut in shelf.cuts() if cut.snapshot_id == snapshot_id]
            return Effect.CHANGED if shelf.give_up(released) else Effect.ALREADY

    def create_on_cut(self, system_id: SystemId, machine: ResolvedMachine, volume: ResolvedVolume) -> Effect:
        """Make the volume on what was kept of its origin. See `ports.volumes`."""
        shelf = self._shelf
        with shelf.lock:
            present = shelf.volume(volume.id)
            if present is not None:
                image_id = present.owner.image_id  # the origin may be gone by now, and says the same
            else:
                image_id = self._origin(volume).owner.image_id
            owner = owner_of(system_id, machine, volume, ImageId(image_id))
            return make_volume(shelf, owner, volume.origin, lambda: self._layers_of_origin(volume))

    def renew(self, volume: ResolvedVolume) -> Effect:
        """Put a fresh layer on the volume's origin, and remove what was written since. See `ports.volumes`.

        An unfinished cut of it goes too. CONFLICT if the volume was not made on a cut.
        """
        shelf = self._shelf
        with shelf.lock:
            record = shelf.existing(volume.id)
            shelf.refuse_worked_on(record)
            layers = self._layers_of_origin(volume)
            if record.files == (record.active, *layers) and layer_files.is_empty(record.active):
                return Effect.ALREADY
            active = shelf.fresh_layer(volume.id, _RENEWED)
            shelf.add_layer(record, active, layers[0])
            given_up = tuple(file for file in record.files if file not in layers)
            renewed = VolumeRecord(record.owner, (active, *layers), volume.origin, leaving=given_up)
            shelf.write(renewed)
            shelf.clear_leaving(renewed)
            return Effect.CHANGED

    def _forget(self, snapshot_id: SnapshotId, volume_id: VolumeId) -> None:
        cut = self._shelf.cut(snapshot_id, volume_id)
        if cut is not None:  # a crash came between keeping it and moving on; the machine has gone on below it
            self._shelf.give_up([sidecar_name(cut)])

    def _layers_of_origin(self, volume: ResolvedVolume) -> tuple[LayerFile, ...]:
        cut = self._origin(volume)
        if volume.size_bytes < cut.owner.size_bytes:
            raise OperationalError(
                Kind.UNSAFE,
                f"volume {volume.name}",
                f"{format_size(volume.size_bytes)} is smaller than its origin's "
                f"{format_size(cut.owner.size_bytes)}",
                "make it at least as large",
            )
        return cut.layers

    def _origin(self, volume: ResolvedVolume) -> CutRecord:
        origin: VolumeOrigin | None = volume.origin
        if origin is None:
            raise OperationalError(
                Kind.CONFLICT, f"volume {volume.name}", "it does not begin with the cut of another volume"
            )
        cut = self._shelf.cut(origin.snapshot_id, origin.volume_id)
        if cut is None:
            raise OperationalError(
                Kind.NOT_FOUND,
                f"volume {volume.name}",
                f"the cut that it begins with is not kept any more (volume {origin.volume_id}, "
                f"snapshot {origin.snapshot_id})",
                "`forkbed snapshots` lists what is kept",
            )
        return cut


def _refuse_missing(record: VolumeRecord, overlay: LayerFile) -> None:
    if not overlay.exists():
        raise OperationalError(
            Kind.FAULT,
            record.subject,
            f"the overlay of its unfinished cut is missing, and may have been written to: {overlay.path}",
            "put the file back",
        )


def _view(cut: CutRecord, own_bytes: int) -> VolumeCutView:
    owner = cut.owner
    return VolumeCutView(
        snapshot_id=cut.snapshot_id,
        volume_id=owner.volume_id,
        system_id=owner.system_id,
        machine_id=owner.machine_id,
        machine_name=owner.machine_name,
        name=owner.name,
        size_bytes=owner.size_bytes,
        own_bytes=own_bytes,
    )
