"""Disks of machines on one host. Today qcow2 overlays on images; a mirrored volume will be a second kind.

The engine never sees a path's meaning: it asks for an attachment and hands it to the hypervisor. A cut of all
disks of a machine at one instant belongs to this port too, since each kind does it in its own way (an overlay
by a new layer, a mirrored volume by backup).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from forkbed.base.ids import ImageId, SystemId, VolumeId
from forkbed.core.systems.spec import ResolvedMachine, ResolvedVolume
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import VolumeView
from forkbed.ports.hypervisor import DiskAttachment


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
        """How the hypervisor gets at the volume, with its whole backing chain."""
