"""The controller dies at any moment: the next one finds each volume as it was or as it was to be, and no litter."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from forkbed.base.ids import SnapshotId, SystemId, VolumeId
from forkbed.core.systems.spec import ResolvedVolume, VolumeOrigin
from forkbed.core.volumes.layers import Commit, Pull
from forkbed.drivers import processes
from forkbed.drivers.volumes import folding
from forkbed.drivers.volumes.overlays import OverlayVolumes
from forkbed.drivers.volumes.records import decode_cut, decode_volume
from forkbed.ports.progress import Silence
from forkbed.ports.volumes import BaseImage
from tests.unit.drivers import samples
from tests.unit.volumes import qcow2
from tests.unit.volumes.world import DISK_BYTES, KIBIBYTE, image_in

SYSTEM = SystemId("sys")
MACHINE = samples.machine()
FIRST = SnapshotId("first")
OPEN = SnapshotId("open")

ROOT = ResolvedVolume(VolumeId("root1"), "root", DISK_BYTES, samples.IMAGE)
FORK = replace(ROOT, id=VolumeId("fork1"), origin=VolumeOrigin(FIRST, ROOT.id))
LONG = ResolvedVolume(VolumeId("long1"), "data", DISK_BYTES)
CUT = ResolvedVolume(VolumeId("cut1"), "data", DISK_BYTES)
NEW = replace(ROOT, id=VolumeId("new1"))

Contents = dict[object, bytes]
Action = Callable[[OverlayVolumes, BaseImage], object]


class Killed(BaseException):
    """Nothing more happens: not even what is to be done on the way out."""


@dataclass
class Host:
    """Volumes in all kinds of situation, to be copied for each death."""

    directory: Path
    image: BaseImage


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    scratch = tmp_path_factory.mktemp("host")
    image = image_in(scratch)
    driver = OverlayVolumes(scratch / "volumes")

    def write(volume: ResolvedVolume, block: int, pattern: int) -> None:
        qcow2.write(driver.chain(volume.id), [(block * 64 * KIBIBYTE, 96 * KIBIBYTE, pattern)])

    def cut(volume: ResolvedVolume, snapshot: SnapshotId) -> None:
        driver.prepare_cut(volume.id, snapshot)
        driver.finish_cut(volume.id, snapshot, None)

    for volume in (ROOT, LONG, CUT):
        driver.create(SYSTEM, MACHINE, volume, image if volume.image_id else None)
        write(volume, 0, 1)
    cut(ROOT, FIRST)
    write(ROOT, 1, 2)
    driver.create_on_cut(SYSTEM, MACHINE, FORK)
    write(FORK, 2, 3)
    for number in range(3):
        cut(LONG, SnapshotId(f"gone{number}"))
        driver.release_cut(SnapshotId(f"gone{number}"))
        if number != 1:  # the layer between holds nothing: leaving it out changes nothing
            write(LONG, number, 4 + number)
    overlay = driver.prepare_cut(CUT.id, OPEN)
    qcow2.write([overlay, *driver.chain(CUT.id)], [(0, 64 * KIBIBYTE, 9)])
    return Host(scratch / "volumes", image)


def finish(driver: OverlayVolumes, *, adopt: bool) -> None:
    attachment = driver.attachment(CUT)
    if driver.prepared_cuts():
        driver.finish_cut(CUT.id, OPEN, attachment.path if adopt else attachment.chain[0][0])


def leave_out_the_empty_layer(driver: OverlayVolumes, _image: BaseImage) -> None:
    empty = f"{LONG.id}.gone1.qcow2"
    driver.record_fold(LONG.id, [path for path in driver.chain(LONG.id) if Path(path).name != empty])


def commit(driver: OverlayVolumes, _image: BaseImage) -> None:
    top, into = (str(Path(driver.chain(LONG.id)[0]).with_name(f"{LONG.id}.gone{n}.qcow2")) for n in (1, 0))
    driver.fold_offline(LONG.id, Commit(top, into), Silence())


def pull(driver: OverlayVolumes, _image: BaseImage) -> None:
    driver.fold_offline(LONG.id, Pull(driver.chain(LONG.id)[-1]), Silence())


ACTIONS: dict[str, Action] = {
    "create": lambda driver, image: driver.create(SYSTEM, MACHINE, NEW, image),
    "grow": lambda driver, _: driver.grow(replace(ROOT, size_bytes=DISK_BYTES + 64 * KIBIBYTE)),
    "prepare a cut": lambda driver, _: driver.prepare_cut(ROOT.id, OPEN),
    "adopt": lambda driver, _: finish(driver, adopt=True),
    "drop": lambda driver, _: finish(driver, adopt=False),
    "release": lambda driver, _: driver.release_cut(FIRST),
    "create on a cut": lambda driver, _: driver.create_on_cut(
        SYSTEM, MACHINE, replace(NEW, origin=VolumeOrigin(FIRST, ROOT.id))
    ),
    "renew": lambda driver, _: driver.renew(FORK),
    "remove": lambda driver, _: driver.remove(LONG.id),
    "remove a volume that others stand on": lambda driver, _: driver.remove(ROOT.id),
    "remove a volume that is being cut": lambda driver, _: driver.remove(CUT.id),
    "commit": commit,
    "pull": pull,
    "record a fold": leave_out_the_empty_layer,
}


@pytest.mark.parametrize("name", ACTIONS)
def test_a_death_at_any_moment_leaves_one_state_or_the_other(name: str, host: Host, tmp_path: Path) -> None:
    act = ACTIONS[name]
    complete = OverlayVolumes(shutil.copytree(host.directory, tmp_path / "complete"))
    before = contents(complete)
    act(complete, host.image)
    after = contents(complete)
    assert litter(complete) == set()
    deaths = 0
    while True:
        directory = shutil.copytree(host.directory, tmp_path / f"death{deaths}")
        driver = OverlayVolumes(directory)
        with dying_after(deaths) as died:
            act(driver, host.image)
        if not died:
            break
        deaths += 1
        heir = OverlayVolumes(directory)
        found = contents(heir)
        for key in before.keys() | after.keys() | found.keys():
            assert found.get(key) in (before.get(key), after.get(key)), f"{key} after death {deaths}"
        assert litter(heir) == set(), f"after death {deaths}"
        act(heir, host.image)
        assert contents(heir) == after
        assert litter(heir) == set()
        shutil.rmtree(directory)
    assert deaths >= 2


@contextmanager
def dying_after(moments: int) -> Iterator[list[str]]:
    """Let so many changes of the disk happen, then none any more; the list tells what did not."""
    left = moments
    undone: list[str] = []

    def mortal(function: Callable[..., object], what: str) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal left
            if left == 0:
                undone.append(what)
                raise Killed
            left -= 1
            return function(*arguments, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, attribute in (
            (Path, "rename"),
            (Path, "unlink"),
            (processes, "run"),
            (folding, "fold_files"),
        ):
            patch.setattr(owner, attribute, mortal(getattr(owner, attribute), attribute))
        try:
            yield undone
        except Killed:
            assert undone


def contents(driver: OverlayVolumes) -> Contents:
    """What each volume and each kept cut shows; of a volume that is being cut, with its overlay."""
    shown: Contents = {}
    for view in driver.volumes():
        volume = ResolvedVolume(view.volume_id, view.name, view.size_bytes)
        attachment = driver.attachment(volume)
        shown[view.volume_id] = qcow2.read([attachment.path, *(path for path, _ in attachment.chain)])
    directory = Path(attachment.path).parent
    for cut in driver.cuts():
        sidecar = directory / f"{cut.volume_id}.{cut.snapshot_id}.cut"
        paths = decode_cut(sidecar, sidecar.read_bytes()).paths
        shown[cut.snapshot_id, cut.volume_id] = qcow2.read(paths)
    return shown


def litter(driver: OverlayVolumes) -> set[str]:
    """Files that no volume and no kept cut consists of."""
    directory = Path(driver.chain(FORK.id)[0]).parent
    named = set()
    for path in directory.iterdir():
        if path.suffix == ".json":
            record = decode_volume(path, path.read_bytes())
            named |= {path.name, *(Path(layer.path).name for layer in record.attached)}
        elif path.suffix == ".cut":
            named |= {path.name, *(Path(p).name for p in decode_cut(path, path.read_bytes()).paths)}
    return {path.name for path in directory.iterdir()} - named
