"""What volumes do on a full disk. Run by `test_full_disk` in a mount namespace of its own, with a small tmpfs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import SnapshotId
from forkbed.core.systems.steps import Effect
from forkbed.core.volumes.layers import Pull
from forkbed.drivers.volumes.overlays import OverlayVolumes
from forkbed.ports.progress import Silence
from tests.unit.volumes.conftest import MACHINE, ROOT, SYSTEM, Bench, on_cut
from tests.unit.volumes.world import image_in


def main(disk: Path, elsewhere: Path) -> None:
    """Fill the disk, see each change refused and nothing changed by it; then make room, and all goes well."""
    bench = Bench(disk, image_in(elsewhere), OverlayVolumes(disk))
    driver = bench.driver
    driver.create(SYSTEM, MACHINE, ROOT, bench.image)
    for number, name in enumerate(("first", "second", "third"), start=1):
        bench.write(ROOT, number, number)
        bench.cut(name)
    fork = bench.fork("first")
    bench.write(fork, 4, 4)
    other = bench.fork("third", "fork2")
    cut_open = driver.prepare_cut(other.id, SnapshotId("open"))
    before = (bench.shown(ROOT), bench.shown(fork), bench.files())
    assert before[0][1:4] == [1, 2, 3]

    filler = disk / "filler"
    fill(filler)
    refused: dict[str, Callable[[], object]] = {
        "create": lambda: driver.create_on_cut(SYSTEM, MACHINE, on_cut("second", "fork3")),
        "prepare": lambda: driver.prepare_cut(ROOT.id, SnapshotId("fourth")),
        "finish": lambda: driver.finish_cut(other.id, SnapshotId("open"), cut_open),
        "renew": lambda: driver.renew(fork),
        "fold": lambda: driver.fold_offline(ROOT.id, Pull(""), Silence()),
    }
    for what, action in refused.items():
        try:
            action()
        except OperationalError as error:
            print(f"{what}: {error}; {error.remedy}")
            assert error.kind is Kind.FAULT, what
            assert "No space left on device" in " ".join([error.brief, *error.details]), what
        else:
            raise AssertionError(f"{what} went through on a full disk")
        driver = bench.driver = OverlayVolumes(disk)
        assert (bench.shown(ROOT), bench.shown(fork), bench.files() - {"filler"}) == before, what
        assert driver.prepared_cuts() == {other.id: "open"}

    # room is made by giving things up, and that needs none
    assert driver.release_cut(SnapshotId("second")) is Effect.CHANGED
    assert driver.remove(fork.id) is Effect.CHANGED
    assert f"{fork.id}.qcow2" not in bench.files()

    filler.unlink()
    assert driver.finish_cut(other.id, SnapshotId("open"), cut_open) is Effect.CHANGED
    assert driver.fold_offline(ROOT.id, Pull(""), Silence()) is Effect.CHANGED
    assert bench.shown(ROOT) == before[0]
    for snapshot in ("first", "third", "open"):
        driver.release_cut(SnapshotId(snapshot))
    driver.remove(ROOT.id)
    driver.remove(other.id)
    assert bench.files() == set()


def fill(path: Path) -> None:
    """Take all the space there is."""
    for size in (65536, 4096, 1):
        try:
            with path.open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(size))
        except OSError:
            continue


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
