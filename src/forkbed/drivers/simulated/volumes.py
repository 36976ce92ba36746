"""`ports.volumes` in memory: disks of layers, their cuts and folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import SnapshotId, SystemId, VolumeId
from forkbed.core.systems.spec import ResolvedMachine, ResolvedVolume
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import VolumeView
from forkbed.core.volumes.layers import Commit, Fold, Pull, fold_refusal, folded, is_shortened, plan_fold
from forkbed.drivers.simulated.disks import Disk, KeptCut
from forkbed.drivers.simulated.world import SimulatedWorld
from forkbed.ports.hypervisor import DiskAttachment
from forkbed.ports.progress import Progress
from forkbed.ports.volumes import BaseImage, VolumeCutView


class SimulatedVolumes:
    """Disks of the simulated world, as `Volumes` and `VolumeCuts`."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world
        self._disks = world.disks

    def volumes(self) -> Sequence[VolumeView]:
        """All volumes."""
        self._world.call("volumes.volumes")
        with self._world.lock:
            return list(self._world.volumes.values())

    def create(
        self, system_id: SystemId, machine: ResolvedMachine, volume: ResolvedVolume, image: BaseImage | None
    ) -> Effect:
        """Make it unless it is there."""
        self._world.call("volumes.create", f"{machine.name}/{volume.name}")
        made = _view(system_id, machine, volume, image.image_id if image else "")
        with self._world.lock:
            return self._make(made, image.path if image else "")

    def grow(self, volume: ResolvedVolume) -> Effect:
        """Enlarge it."""
        self._world.call("volumes.grow", volume.name)
        with self._world.lock:
            known = self._world.volumes[volume.id]
            if volume.size_bytes < known.size_bytes:
                raise OperationalError(Kind.UNSAFE, f"volume {volume.id}", "would lose data by shrinking")
            self._world.volumes[volume.id] = replace(known, size_bytes=volume.size_bytes)
            return Effect.CHANGED if known.size_bytes != volume.size_bytes else Effect.ALREADY

    def remove(self, volume_id: VolumeId) -> Effect:
        """Forget it, and the layers that nothing else stands on."""
        self._world.call("volumes.remove", volume_id)
        with self._world.lock:
            self._disks.volumes.pop(volume_id, None)
            self._disks.sweep()
            return Effect.CHANGED if self._world.volumes.pop(volume_id, None) else Effect.ALREADY

    def attachment(self, volume: ResolvedVolume) -> DiskAttachment:
        """The layers, under paths that lead nowhere."""
        serial = "root" if volume.name == "root" else f"vol-{volume.name}"
        active, *below = self.chain(volume.id)
        return DiskAttachment(serial[:20], active, "qcow2", chain=tuple((path, "qcow2") for path in below))

    # cuts

    def prepare_cut(self, volume_id: VolumeId, snapshot_id: SnapshotId) -> str:
        """Make the overlay for a cut."""
        self._world.call("volumes.prepare_cut", volume_id)
        with self._world.lock:
            disk = self._find(volume_id)
            if disk.prepared is not None and disk.prepared[0] != snapshot_id:
                raise OperationalError(
                    Kind.CONFLICT, f"volume {volume_id}", "a cut for another snapshot is not finished"
                )
            if (snapshot_id, volume_id) in self._disks.cuts:
                raise OperationalError(
                    Kind.CONFLICT, f"volume {volume_id}", f"it was cut for snapshot {snapshot_id} already"
                )
            if disk.prepared is None:
                disk.prepared = snapshot_id, self._disks.add_layer(volume_id, disk.active)
            return disk.prepared[1]

    def finish_cut(self, volume_id: VolumeId, snapshot_id: SnapshotId, in_use: str | None) -> Effect:
        """Adopt the overlay, or drop it if the layer below is still written to."""
        self._world.call("volumes.finish_cut", volume_id)
        with self._world.lock:
            disk = self._find(volume_id)
            if disk.prepared is None or disk.prepared[0] != snapshot_id:
                return Effect.ALREADY
            overlay = disk.prepared[1]
            if in_use not in (None, overlay, disk.active):
                raise OperationalError(
                    Kind.FAULT,
                    f"volume {volume_id}",
                    f"its machine writes to {in_use}, which is no layer of it",
                )
            if in_use != disk.active:
                seen = self._world.volumes[volume_id]
                view = VolumeCutView(
                    snapshot_id,
                    volume_id,
                    seen.system_id,
                    seen.machine_id,
                    seen.machine_name,
                    seen.name,
                    seen.size_bytes,
                    own_bytes=0,
                )
                self._disks.cuts[snapshot_id, volume_id] = KeptCut(view, disk.active)
                disk.active = overlay
            disk.prepared = None
            self._disks.sweep()
            return Effect.CHANGED

    def prepared_cuts(self) -> Mapping[VolumeId, SnapshotId]:
        """Cuts between prepared and finished."""
        with self._world.lock:
            disks = self._disks.volumes.items()
            return {volume_id: disk.prepared[0] for volume_id, disk in disks if disk.prepared}

    def cuts(self) -> Sequence[VolumeCutView]:
        """All kept cuts."""
        self._world.call("volumes.cuts")
        with self._world.lock:
            own = self._disks.own_bytes()
            return [replace(cut.view, own_bytes=own[key]) for key, cut in self._disks.cuts.items()]

    def release_cut(self, snapshot_id: SnapshotId) -> Effect:
        """Keep the snapshot's cuts no longer."""
        self._world.call("volumes.release_cut", snapshot_id)
        with self._world.lock:
            released = [key for key in self._disks.cuts if key[0] == snapshot_id]
            for key in released:
                del self._disks.cuts[key]
            self._disks.sweep()
            return Effect.CHANGED if released else Effect.ALREADY

    def create_on_cut(self, system_id: SystemId, machine: ResolvedMachine, volume: ResolvedVolume) -> Effect:
        """Make it on the cut that its origin names."""
        self._world.call("volumes.create_on_cut", f"{machine.name}/{volume.name}")
        with self._world.lock:
            made = _view(system_id, machine, volume, volume.image_id or "")
            if volume.id in self._world.volumes:
                return self._make(made, "")
            return self._make(made, self._origin_layer(volume))

    def renew(self, volume: ResolvedVolume) -> Effect:
        """Give up what was written since it was made."""
        self._world.call("volumes.renew", volume.id)
        with self._world.lock:
            disk = self._find(volume.id)
            if volume.origin is None:
                raise OperationalError(Kind.CONFLICT, f"volume {volume.id}", "was not made on a cut")
            self._refuse_in_use(volume.id)
            layer = self._disks.layers[disk.active]
            if layer.below == disk.origin and not layer.blocks:
                return Effect.ALREADY
            disk.active = self._disks.add_layer(volume.id, self._origin_layer(volume))
            disk.origin = self._disks.layers[disk.active].below
            disk.prepared = None
            self._disks.sweep()
            return Effect.CHANGED

    # chains

    def chain(self, volume_id: VolumeId) -> tuple[str, ...]:
        """The volume's files."""
        with self._world.lock:
            return self._disks.chain(self._find(volume_id).active)

    def cut_chain(self, snapshot_id: SnapshotId, volume_id: VolumeId) -> tuple[str, ...]:
        """The files of a kept cut."""
        with self._world.lock:
            kept = self._disks.cuts.get((snapshot_id, volume_id))
            if kept is None:
                raise OperationalError(Kind.NOT_FOUND, f"volume {volume_id}", "is not kept in that snapshot")
            return self._disks.chain(kept.top)

    def own_bytes(self) -> Mapping[VolumeId, int]:
        """What only the volume stands on."""
        with self._world.lock:
            own = self._disks.own_bytes()
            return {volume_id: own[volume_id] for volume_id in self._disks.volumes}

    def plan_fold(self, volume_id: VolumeId, limit: int) -> Fold | None:
        """The next fold, or None."""
        with self._world.lock:
            if self._find(volume_id).prepared is not None:
                return None
            return plan_fold(self._disks.survey(volume_id), limit, self._disks.allocated_bytes())

    def fold_offline(self, volume_id: VolumeId, fold: Fold, progress: Progress) -> Effect:
        """Fold at once."""
        self._world.call("volumes.fold_offline", volume_id)
        with self._world.lock:
            chain = self.chain(volume_id)
            self._refuse_in_use(volume_id)
            if refusal := fold_refusal(self._disks.survey(volume_id), fold):
                raise OperationalError(Kind.CONFLICT, f"volume {volume_id}", refusal)
            left = folded(chain, fold)
            match fold:
                case Commit(top, into) if top in chain:
                    self._disks.merge_down(top, into)
                case Pull():
                    self._disks.pull_up(chain[0], chain[1 : 1 + len(chain) - len(left)])
            return self._relink(volume_id, left)

    def record_fold(self, volume_id: VolumeId, in_use: Sequence[str]) -> Effect:
        """Take over the chain that a running machine was left with."""
        self._world.call("volumes.record_fold", volume_id)
        with self._world.lock:
            if not is_shortened(self.chain(volume_id), in_use):
                raise OperationalError(
                    Kind.FAULT, f"volume {volume_id}", "its machine uses layers that are not recorded"
                )
            return self._relink(volume_id, tuple(in_use))

    def _relink(self, volume_id: VolumeId, left: tuple[str, ...]) -> Effect:
        if self.chain(volume_id) == left:
            return Effect.ALREADY
        for path, below in pairwise((*left, "")):
            if path in self._disks.layers:
                self._disks.layers[path].below = below
        disk = self._disks.volumes[volume_id]
        if disk.origin not in left:
            disk.origin = self._disks.layers[disk.active].below
        self._disks.sweep()
        return Effect.CHANGED

    def _make(self, made: VolumeView, below: str) -> Effect:
        known = self._world.volumes.get(made.volume_id)
        if known is not None:
            if known != made:
                raise OperationalError(
                    Kind.CONFLICT, f"volume {made.volume_id}", "exists with another size or backing"
                )
            return Effect.ALREADY
        self._world.volumes[made.volume_id] = made
        active = self._disks.add_layer(made.volume_id, below)
        self._disks.volumes[made.volume_id] = Disk(active, below)
        return Effect.CHANGED

    def _origin_layer(self, volume: ResolvedVolume) -> str:
        cut = volume.origin and self._disks.cuts.get((volume.origin.snapshot_id, volume.origin.volume_id))
        if not cut:
            raise OperationalError(
                Kind.NOT_FOUND, f"volume {volume.name}", "the cut that it begins with is not kept any more"
            )
        return cut.top

    def _find(self, volume_id: VolumeId) -> Disk:
        disk = self._disks.volumes.get(volume_id)
        if disk is None:
            raise OperationalError(Kind.NOT_FOUND, f"volume {volume_id}", "there is no such volume here")
        return disk

    def _refuse_in_use(self, volume_id: VolumeId) -> None:
        active = self._disks.volumes[volume_id].active
        for machine in self._world.machines.values():
            if any(active in chain for chain in machine.in_use.values()):
                raise OperationalError(Kind.CONFLICT, f"volume {volume_id}", "its machine is running")


def _view(system_id: SystemId, machine: ResolvedMachine, volume: ResolvedVolume, backing: str) -> VolumeView:
    return VolumeView(volume.id, system_id, volume.size_bytes, machine.id, machine.name, volume.name, backing)
