"""Systems on real overlay volumes beside a model in memory, which says what every disk and every cut must show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from forkbed.base.ids import MachineId, SnapshotId, SystemId, VolumeId
from forkbed.core.systems.spec import ResolvedMachine, ResolvedVolume, VolumeOrigin
from forkbed.core.systems.steps import Effect
from forkbed.drivers import processes
from forkbed.drivers.volumes.block_jobs import fold_files
from forkbed.drivers.volumes.overlays import OverlayVolumes
from forkbed.drivers.volumes.records import LayerFile, decode_cut
from forkbed.ports.progress import Silence
from forkbed.ports.volumes import BaseImage, VolumeCuts, Volumes
from tests.unit.drivers import samples
from tests.unit.volumes import qcow2

KIBIBYTE = 1024
DISK_BYTES = 1024 * KIBIBYTE
IMAGE_BYTES = 256 * KIBIBYTE
BLOCK_BYTES = 32 * KIBIBYTE  # half a cluster: writing one copies the other half up


def image_in(directory: Path) -> BaseImage:
    """A small image with something in it."""
    path = directory / "image.qcow2"
    processes.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(IMAGE_BYTES)])
    qcow2.write([str(path)], [(0, IMAGE_BYTES // 2, 0xEE)])
    path.chmod(0o444)
    return BaseImage(samples.IMAGE, str(path), "qcow2", IMAGE_BYTES)


@dataclass
class Disk:
    """A volume, and what it must show."""

    volume: ResolvedVolume
    content: bytearray


@dataclass
class Cut:
    """What a kept cut of a volume must show, and its files as they were then: they must stay so."""

    content: bytes
    files: dict[str, tuple[int, int]]


@dataclass
class World:
    """Systems with a root disk on an image and perhaps a data disk, and their snapshots."""

    directory: Path
    image: BaseImage
    driver: OverlayVolumes
    systems: dict[SystemId, dict[str, Disk]] = field(default_factory=dict)
    cuts: dict[tuple[SnapshotId, VolumeId], Cut] = field(default_factory=dict)
    snapshots: dict[SnapshotId, dict[str, ResolvedVolume]] = field(default_factory=dict)
    made: int = 0

    @classmethod
    def begin(cls, scratch: Path, *, data: bool = True) -> World:
        """A world with one system, with or without a data disk."""
        world = cls(scratch / "volumes", image_in(scratch), OverlayVolumes(scratch / "volumes"))
        system = world.system_id()
        root = ResolvedVolume(world.volume_id(), "root", DISK_BYTES, samples.IMAGE)
        shown = bytearray(b"\xee" * (IMAGE_BYTES // 2)).ljust(DISK_BYTES, b"\0")
        world.systems[system] = {"root": Disk(root, shown)}
        world.volumes.create(system, machine_of(system), root, world.image)
        if data:
            blank = ResolvedVolume(world.volume_id(), "data", DISK_BYTES)
            world.systems[system]["data"] = Disk(blank, bytearray(DISK_BYTES))
            world.volumes.create(system, machine_of(system), blank, None)
        return world

    # what can happen

    def write(self, system: SystemId, disk: str, *writes: tuple[int, int, int]) -> None:
        """Write blocks: first block, how many, pattern."""
        target = self.systems[system][disk]
        scaled = [(first * BLOCK_BYTES, count * BLOCK_BYTES, pattern) for first, count, pattern in writes]
        for offset, length, pattern in scaled:
            target.content[offset : offset + length] = bytes([pattern]) * length
        qcow2.write(self.driver.chain(target.volume.id), scaled)

    def snapshot(self, system: SystemId, *, running: bool) -> SnapshotId:
        """Cut all disks, as for machines that run on the overlays afterwards, or that do not run."""
        snapshot = SnapshotId(f"snap{self.number()}")
        overlays = self._prepare(system, snapshot)
        for name, disk in self.systems[system].items():
            kept = self.driver.chain(disk.volume.id)
            in_use = overlays[name] if running else None
            assert self.volume_cuts.finish_cut(disk.volume.id, snapshot, in_use) is Effect.CHANGED
            self.cuts[snapshot, disk.volume.id] = Cut(bytes(disk.content), stamps(kept))
        self.snapshots[snapshot] = {name: disk.volume for name, disk in self.systems[system].items()}
        return snapshot

    def give_up_snapshot(self, system: SystemId) -> None:
        """A cut that did not come about: the machines go on writing below."""
        snapshot = SnapshotId(f"snap{self.number()}")
        self._prepare(system, snapshot)
        for disk in self.systems[system].values():
            below = self.driver.chain(disk.volume.id)[0]
            assert self.volume_cuts.finish_cut(disk.volume.id, snapshot, below) is Effect.CHANGED

    def fork(self, snapshot: SnapshotId, *, larger: bool = False) -> SystemId:
        """A new system on a snapshot."""
        system = self.system_id()
        self.systems[system] = self._stand_on(snapshot, system, larger=larger)
        return system

    def rollback(self, system: SystemId, snapshot: SnapshotId) -> None:
        """Put the system on one of its snapshots, and keep what it replaces."""
        self.snapshot(system, running=True)
        replaced = self.systems[system]
        self.systems[system] = self._stand_on(snapshot, system, larger=False)
        for disk in replaced.values():
            self.volumes.remove(disk.volume.id)

    def discard(self, system: SystemId) -> None:
        """Give up a system's volumes."""
        for disk in self.systems.pop(system).values():
            assert self.volumes.remove(disk.volume.id) is Effect.CHANGED

    def delete(self, snapshot: SnapshotId) -> None:
        """Keep a snapshot no longer."""
        for volume in self.snapshots.pop(snapshot).values():
            del self.cuts[snapshot, volume.id]
        assert self.volume_cuts.release_cut(snapshot) is Effect.CHANGED

    def renew(self, disk: Disk) -> None:
        """Give up what was written to a fork's disk since it was made."""
        assert disk.volume.origin is not None
        kept = self.cuts[disk.volume.origin.snapshot_id, disk.volume.origin.volume_id]
        self.volume_cuts.renew(disk.volume)
        assert self.volume_cuts.renew(disk.volume) is Effect.ALREADY
        disk.content = bytearray(kept.content.ljust(len(disk.content), b"\0"))

    def grow(self, disk: Disk) -> None:
        """Enlarge a disk."""
        disk.volume = replace(disk.volume, size_bytes=disk.volume.size_bytes + 64 * KIBIBYTE)
        assert self.volumes.grow(disk.volume) is Effect.CHANGED
        disk.content = disk.content.ljust(disk.volume.size_bytes, b"\0")

    def fold(self, disk: Disk, limit: int, *, by_machine: bool) -> int:
        """Fold until the chain is short enough; as a running machine does it, the driver only records it."""
        count = 0
        volume = disk.volume.id
        while fold := self.volume_cuts.plan_fold(volume, limit):
            if by_machine:
                files = [LayerFile(path) for path in self.driver.chain(volume)]
                fold_files(files, fold, subject="a running machine", progress=Silence())
                self.restart()  # and the controller died before it could record it
                self.check()
                top = getattr(fold, "top", None)
                keep = getattr(fold, "keep", None)
                paths = [file.path for file in files]
                left = (
                    [path for path in paths if path != top]
                    if top is not None
                    else [paths[0], *(paths[paths.index(keep) :] if keep else [])]
                )
                assert self.volume_cuts.record_fold(volume, left) is Effect.CHANGED
            else:
                assert self.volume_cuts.fold_offline(volume, fold, Silence()) is Effect.CHANGED
            count += 1
        assert len(self.driver.chain(volume)) <= limit
        return count

    def restart(self) -> None:
        """Another controller takes over."""
        self.driver = OverlayVolumes(self.directory)

    def end(self) -> None:
        """Give everything up; nothing may be left."""
        for system in list(self.systems):
            self.discard(system)
        for snapshot in list(self.snapshots):
            self.delete(snapshot)
        assert list(self.directory.iterdir()) == []

    # what must be true

    def check(self) -> None:
        """Every disk and every cut shows what it must, kept files are untouched, and no file lies about."""
        named: set[str] = set()
        for disk in self.disks():
            chain = self.driver.chain(disk.volume.id)
            named.update(chain)
            expect(disk.content, qcow2.read(chain), disk.volume.id)
        for (snapshot, volume), cut in self.cuts.items():
            paths = self.paths_of_cut(snapshot, volume)
            named.update(paths)
            expect(cut.content, qcow2.read(paths), f"{volume} at {snapshot}")
            assert stamps(paths) == cut.files, f"a layer of {volume}@{snapshot} was written to"
        there = {str(path) for path in self.directory.iterdir() if path.suffix == ".qcow2"}
        assert there == named - {self.image.path}
        assert {(view.snapshot_id, view.volume_id) for view in self.volume_cuts.cuts()} == set(self.cuts)
        assert {view.volume_id for view in self.volumes.volumes()} == {d.volume.id for d in self.disks()}
        assert self.volume_cuts.prepared_cuts() == {}

    def check_by_qemu(self, scratch: Path) -> None:
        """QEMU reads the same of every disk and cut."""
        for disk in self.disks():
            read = qcow2.read_by_qemu(self.driver.chain(disk.volume.id), scratch)
            expect(disk.content, read, disk.volume.id)
        for (snapshot, volume), cut in self.cuts.items():
            read = qcow2.read_by_qemu(self.paths_of_cut(snapshot, volume), scratch)
            expect(cut.content, read, f"{volume} at {snapshot}")

    def disks(self) -> Iterator[Disk]:
        """The disks of all systems."""
        for system in self.systems.values():
            yield from system.values()

    def paths_of_cut(self, snapshot: SnapshotId, volume: VolumeId) -> tuple[str, ...]:
        """The chain of a kept cut, from its sidecar."""
        sidecar = self.directory / f"{volume}.{snapshot}.cut"
        return decode_cut(sidecar, sidecar.read_bytes()).paths

    @property
    def volumes(self) -> Volumes:
        """The driver as the engine sees it."""
        return self.driver

    @property
    def volume_cuts(self) -> VolumeCuts:
        """The driver as the engine sees it."""
        return self.driver

    def number(self) -> int:
        self.made += 1
        return self.made

    def volume_id(self) -> VolumeId:
        return VolumeId(f"vol{self.number()}")

    def system_id(self) -> SystemId:
        return SystemId(f"sys{self.number()}")

    def _prepare(self, system: SystemId, snapshot: SnapshotId) -> dict[str, str]:
        overlays = {}
        for name, disk in self.systems[system].items():
            overlay = self.volume_cuts.prepare_cut(disk.volume.id, snapshot)
            assert self.volume_cuts.prepare_cut(disk.volume.id, snapshot) == overlay
            overlays[name] = overlay
        return overlays

    def _stand_on(self, snapshot: SnapshotId, system: SystemId, *, larger: bool) -> dict[str, Disk]:
        disks = {}
        for name, of in self.snapshots[snapshot].items():
            content = self.cuts[snapshot, of.id].content
            size = len(content) + (64 * KIBIBYTE if larger else 0)
            origin = VolumeOrigin(snapshot, of.id)
            volume = replace(of, id=self.volume_id(), size_bytes=size, origin=origin)
            effect = self.volume_cuts.create_on_cut(system, machine_of(system), volume)
            assert effect is Effect.CHANGED
            disks[name] = Disk(volume, bytearray(content.ljust(size, b"\0")))
        return disks


def machine_of(system: SystemId) -> ResolvedMachine:
    """The one machine of a system."""
    return replace(samples.machine(), id=MachineId(f"machine-of-{system}"))


def stamps(paths: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Size and time of the last change of each file: any write changes them."""
    return {path: (Path(path).stat().st_size, Path(path).stat().st_mtime_ns) for path in paths}


def expect(wanted: bytes | bytearray, shown: bytes, what: str) -> None:
    """Fail if they differ, without printing megabytes."""
    if shown != wanted:
        wrong = [
            place // BLOCK_BYTES
            for place in range(0, max(len(wanted), len(shown)), BLOCK_BYTES)
            if wanted[place : place + BLOCK_BYTES] != shown[place : place + BLOCK_BYTES]
        ]
        raise AssertionError(f"{what} shows something else in blocks {wrong}")
