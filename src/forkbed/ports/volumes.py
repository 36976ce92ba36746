"""Disks of machines on one host. Today qcow2 overlays on images; a mirrored volume will be a second kind.

The engine never sees a path's meaning: it asks for an attachment and hands it to the hypervisor. A cut of all
disks of a machine at one instant belongs to this port too, since each kind does it in its own way (an overlay
by a new layer, a mirrored volume by backup).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from forkbed.base.ids import ImageId, MachineId, SnapshotId, SystemId, VolumeId
from forkbed.core.systems.spec import ResolvedMachine, ResolvedVolume
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import VolumeView
from forkbed.core.volumes.layers import Fold
from forkbed.ports.hypervisor import DiskAttachment
from forkbed.ports.progress import Progress


@dataclass(frozen=True, slots=True)
class BaseImage:
    """The immutable file under a root volume. `size_bytes` is the size of the disk it holds."""

    image_id: ImageId
    path: str
    format: str  # "qcow2" or "raw"
    size_bytes: int


class Volumes(Protocol):
    def volumes(self) -> Sequence[VolumeView]:
        """All volumes of this installation on the host."""

    def create(
        self, system_id: SystemId, machine: ResolvedMachine, volume: ResolvedVolume, image: BaseImage | None
    ) -> Effect:
        """Make the volume, on top of `image` for a root volume, blank otherwise. Never overwrites one.

        Refuses (CONFLICT) if a volume of that id exists with another size or backing.
        """

    def grow(self, volume: ResolvedVolume) -> Effect:
        """Enlarge the volume to `size_bytes`; its machine must not run. Refuses (UNSAFE) to shrink."""

    def remove(self, volume_id: VolumeId) -> Effect:
        """Destroy the volume's data."""

    def attachment(self, volume: ResolvedVolume) -> DiskAttachment:
        """How the hypervisor gets at the volume, with its whole backing chain.

        While a cut is not finished, the overlay prepared for it comes first.
        """


@dataclass(frozen=True, slots=True)
class VolumeCutView:
    """A volume's content at the cut of a snapshot, kept."""

    snapshot_id: SnapshotId
    volume_id: VolumeId
    system_id: SystemId
    machine_id: MachineId
    machine_name: str
    name: str
    size_bytes: int
    own_bytes: int  # allocated by layers that nothing else stands on: what removing it gives back


class VolumeCuts(Protocol):
    """Cuts of volumes. A layer below a cut is never written again; layers go when nothing stands on them."""

    def prepare_cut(self, volume_id: VolumeId, snapshot_id: SnapshotId) -> str:
        """Make the overlay that writes go to after the cut, and note it; returns its path. Nothing uses it yet.

        Idempotent for the same snapshot. CONFLICT while a cut for another snapshot is not finished.
        """

    def finish_cut(self, volume_id: VolumeId, snapshot_id: SnapshotId, in_use: str | None) -> Effect:
        """Settle a prepared cut. `in_use` is the file that the running machine writes to; None if it does not run.

        The overlay becomes the active layer, and what lies below is kept for the snapshot, unless the running
        machine still writes to the layer below: then the overlay is removed, and nothing is kept. (A machine that
        does not run may have written to the overlay before it ended, and an unused overlay changes nothing, so
        then it is always adopted.) ALREADY without a prepared cut.
        """

    def prepared_cuts(self) -> Mapping[VolumeId, SnapshotId]:
        """Cuts that were prepared and not finished: a crash lies between."""

    def cuts(self) -> Sequence[VolumeCutView]:
        """All kept cuts."""

    def release_cut(self, snapshot_id: SnapshotId) -> Effect:
        """Keep the snapshot's cuts no longer; layers that nothing stands on are removed."""

    def create_on_cut(self, system_id: SystemId, machine: ResolvedMachine, volume: ResolvedVolume) -> Effect:
        """Make the volume on top of `volume.origin`. NOT_FOUND if that cut is gone. Never overwrites a volume."""

    def renew(self, volume: ResolvedVolume) -> Effect:
        """Give up all that was written to a volume since it was made on its origin. Its machine must not run.

        ALREADY if nothing was.
        """

    def chain(self, volume_id: VolumeId) -> tuple[str, ...]:
        """The volume's files, active layer first, the image last."""

    def cut_chain(self, snapshot_id: SnapshotId, volume_id: VolumeId) -> tuple[str, ...]:
        """The files of a kept cut, top first, the image last. NOT_FOUND if it is not kept."""

    def own_bytes(self) -> Mapping[VolumeId, int]:
        """Of each volume, what is allocated by layers that nothing else stands on."""

    def plan_fold(self, volume_id: VolumeId, limit: int) -> Fold | None:
        """The next fold that brings the volume's chain to at most `limit` files, or None."""

    def fold_offline(self, volume_id: VolumeId, fold: Fold, progress: Progress) -> Effect:
        """Do the fold on the files of a machine that does not run, and record it."""

    def record_fold(self, volume_id: VolumeId, in_use: Sequence[str]) -> Effect:
        """Record the chain that a fold by the running machine left (active first); remove layers no longer needed.

        Refuses (FAULT) a chain that is not the recorded one with layers left out.
        """
