"""One directory of volumes, and a machine's root volume on an image in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from forkbed.base.ids import SnapshotId, SystemId, VolumeId
from forkbed.core.systems.spec import ResolvedVolume, VolumeOrigin
from forkbed.drivers.volumes.overlays import OverlayVolumes
from forkbed.ports.volumes import BaseImage
from tests.unit.drivers import samples
from tests.unit.volumes import qcow2
from tests.unit.volumes.world import DISK_BYTES, KIBIBYTE, image_in

SYSTEM = SystemId("sys1")
MACHINE = samples.machine()
ROOT = ResolvedVolume(VolumeId("root1"), "root", DISK_BYTES, samples.IMAGE)
CLUSTER = 64 * KIBIBYTE


def on_cut(snapshot: str, name: str = "fork1", size_bytes: int = DISK_BYTES) -> ResolvedVolume:
    """A volume that begins with the root volume at a snapshot."""
    origin = VolumeOrigin(SnapshotId(snapshot), ROOT.id)
    return ResolvedVolume(VolumeId(name), "root", size_bytes, samples.IMAGE, origin=origin)


@dataclass
class Bench:
    """Volumes with the shortest words for what tests do to them."""

    directory: Path
    image: BaseImage
    driver: OverlayVolumes

    def write(self, volume: ResolvedVolume, cluster: int, pattern: int) -> None:
        """Fill one cluster."""
        qcow2.write(self.driver.chain(volume.id), [(cluster * CLUSTER, CLUSTER, pattern)])

    def shown(self, volume: ResolvedVolume) -> list[int]:
        """The first byte of each of the first six clusters."""
        content = qcow2.read(self.driver.chain(volume.id))
        return [content[cluster * CLUSTER] for cluster in range(6)]

    def cut(self, snapshot: str, volume: ResolvedVolume = ROOT) -> None:
        """Cut a volume whose machine does not run."""
        self.driver.prepare_cut(volume.id, SnapshotId(snapshot))
        self.driver.finish_cut(volume.id, SnapshotId(snapshot), None)

    def fork(self, snapshot: str, name: str = "fork1", size_bytes: int = DISK_BYTES) -> ResolvedVolume:
        """A volume on the cut of the root volume."""
        volume = on_cut(snapshot, name, size_bytes)
        self.driver.create_on_cut(SYSTEM, MACHINE, volume)
        return volume

    def restart(self) -> None:
        """Another controller takes over."""
        self.driver = OverlayVolumes(self.directory)

    def names(self, volume: ResolvedVolume = ROOT) -> list[str]:
        """The names of the volume's files, active first, without the image."""
        return [Path(p).name for p in self.driver.chain(volume.id) if p != self.image.path]

    def files(self) -> set[str]:
        """All there is in the directory."""
        return {path.name for path in self.directory.iterdir()}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    image = image_in(tmp_path)
    bench = Bench(tmp_path / "volumes", image, OverlayVolumes(tmp_path / "volumes"))
    bench.driver.create(SYSTEM, MACHINE, ROOT, image)
    return bench
