"""Both drivers of `ports.disks` keep its promises: ext4 on qcow2 files, and the simulated disks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from forkbed.base.ids import VolumeId
from forkbed.drivers import processes
from forkbed.drivers.simulated.comparisons import SimulatedDisks
from forkbed.drivers.simulated.world import SimulatedWorld, VirtualClock
from forkbed.ports.disks import DiskLayer, Disks, DiskVersion
from tests.contract import disk_contracts
from tests.contract.disk_contracts import DisksBench
from tests.unit.diffs.disks import DISKS, edit_ext4, make_ext4, overlay, version


class Ext4Bench:
    """File systems in qcow2 files, written with debugfs."""

    def __init__(self, directory: Path) -> None:
        self.disks: Disks = DISKS
        self._directory = directory
        self._made = 0

    def version(self, files: Mapping[str, str], below: DiskVersion | None = None) -> DiskVersion:
        self._made += 1
        here = self._directory / str(self._made)
        if below is None:
            for name, text in files.items():
                (here / name).parent.mkdir(parents=True, exist_ok=True)
                (here / name).write_text(text)
            (here / "srv").mkdir()
            return version(make_ext4(here.with_suffix(".raw"), here))
        here.mkdir()
        top, content = below.layers[0], here / "content.raw"
        processes.run(["qemu-img", "convert", "-f", top.format, "-O", "raw", top.path, content])
        present = already_there(content, files)
        commands = [f"rm {name}" for name in present]
        for number, (name, text) in enumerate(files.items()):
            (here / str(number)).write_text(text)
            commands.append(f"write {here}/{number} {name}")
        edit_ext4(content, commands)
        layer = overlay(here.with_suffix(".qcow2"), Path(top.path), content, top.format)
        return DiskVersion((DiskLayer(str(layer)), *below.layers))


def already_there(content: Path, names: Mapping[str, str]) -> list[str]:
    """Those of the names that are there already: debugfs writes new files only."""
    return [
        name for name in names
        if b"not found" not in processes.run(["debugfs", "-R", f"stat {name}", content]).stderr
    ]  # fmt: skip


class SimulatedBench:
    """Blocks of the simulated world."""

    def __init__(self) -> None:
        self._world = SimulatedWorld(VirtualClock())
        self.disks: Disks = SimulatedDisks(self._world)

    def version(self, files: Mapping[str, str], below: DiskVersion | None = None) -> DiskVersion:
        under = below.layers if below else ()
        path = self._world.disks.add_layer(VolumeId("vol1"), under[0].path if under else "")
        self._world.disks.layers[path].blocks.update(files)
        return DiskVersion((DiskLayer(path), *under))


@pytest.mark.parametrize("promise", disk_contracts.PROMISES)
def test_ext4(promise: Callable[[DisksBench], None], tmp_path: Path) -> None:
    promise(Ext4Bench(tmp_path))


@pytest.mark.parametrize("promise", disk_contracts.PROMISES)
def test_simulated(promise: Callable[[DisksBench], None]) -> None:
    promise(SimulatedBench())
