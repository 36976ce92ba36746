"""One directory of volumes, and a machine's root volume on an image in it."""

from __future__ import annotations

import shutil
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


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The root volume, blank but for its image; to be copied."""
    scratch = tmp_path_factory.mktemp("plain")
    bench = Bench(scratch / "volumes", image_in(scratch), OverlayVolumes(scratch / "volumes"))
    bench.driver.create(SYSTEM, MACHINE, ROOT, bench.image)
    return bench


@pytest.fixture(scope="session")
def grown_up(plain: Bench, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The root volume on four layers of its own, of which each holds a cluster; to be copied."""
    bench = copied(plain, tmp_path_factory.mktemp("grown-up"))
    for number, name in enumerate(("one", "two", "three", "four"), start=1):
        bench.write(ROOT, number, number + 1)
        if name != "four":
            bench.cut(name)
            bench.driver.release_cut(SnapshotId(name))
    assert bench.names() == ["root1.three.qcow2", "root1.two.qcow2", "root1.one.qcow2", "root1.qcow2"]
    return bench


@pytest.fixture
def bench(plain: Bench, tmp_path: Path) -> Bench:
    return copied(plain, tmp_path)


@pytest.fixture
def layered(grown_up: Bench, tmp_path: Path) -> Bench:
    return copied(grown_up, tmp_path)


def copied(bench: Bench, scratch: Path) -> Bench:
    """The same in another directory: sidecars name our own files without one."""
    directory = shutil.copytree(bench.directory, scratch / "volumes")
    return Bench(directory, bench.image, OverlayVolumes(directory))
