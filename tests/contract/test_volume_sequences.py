"""Whatever happens to volumes in whatever order, each shows what was written to it, and each cut what it kept."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.volumes.world import Disk, World

# Hundreds of processes: seconds on a quiet machine, a minute on a busy one.
pytestmark = pytest.mark.timeout(300)

STEPS = 60
ROUNDS = 50
LONGEST = 8


@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_leaves_every_disk_and_every_cut_as_it_should_be(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    world = World.begin(tmp_path)
    trace: list[str] = []
    try:
        for _ in range(STEPS):
            trace.append(something(world, chance))
            world.check()
        world.check_by_qemu(tmp_path)
    except Exception as error:
        error.add_note("after: " + ", ".join(trace))
        raise
    world.end()


def something(world: World, chance: random.Random) -> str:
    """Do one thing that can be done now, and say what."""
    system = chance.choice(sorted(world.systems))
    mine = {disk.volume.id for disk in world.systems[system].values()}
    snapshots = sorted(world.snapshots)
    own = [s for s in snapshots if {v.id for v in world.snapshots[s].values()} == mine]
    disk = chance.choice(list(world.disks()))
    may_renew = disk.volume.origin is not None and disk.volume.origin.snapshot_id in world.snapshots
    actions: dict[str, tuple[int, bool, Callable[[], object]]] = {
        "write": (6, True, lambda: write_something(world, disk, chance)),
        "snapshot": (4, len(snapshots) < 8, lambda: world.snapshot(system, running=chance.random() < 0.5)),
        "snapshot given up": (1, True, lambda: world.give_up_snapshot(system)),
        "fork": (
            3,
            bool(snapshots) and len(world.systems) < 4,
            lambda: world.fork(chance.choice(snapshots), larger=chance.random() < 0.3),
        ),
        "discard": (1, len(world.systems) > 1, lambda: world.discard(system)),
        "rollback": (2, bool(own), lambda: world.rollback(system, chance.choice(own))),
        "delete": (3, bool(snapshots), lambda: world.delete(chance.choice(snapshots))),
        "renew": (2, may_renew, lambda: world.renew(disk)),
        "grow": (1, True, lambda: world.grow(disk)),
        "fold": (3, True, lambda: world.fold(disk, chance.randint(1, 4), by_machine=False)),
        "fold by the machine": (2, True, lambda: world.fold(disk, chance.randint(2, 4), by_machine=True)),
        "restart": (1, True, world.restart),
    }
    possible = {name: weight for name, (weight, may, _) in actions.items() if may}
    name = chance.choices(list(possible), weights=list(possible.values()))[0]
    actions[name][2]()
    return f"{name} ({system}, {disk.volume.id})"


def write_something(world: World, disk: Disk, chance: random.Random) -> None:
    """Some blocks, some of them zeroes."""
    blocks = disk.volume.size_bytes // (32 * 1024)
    writes = []
    for _ in range(chance.randint(1, 3)):
        first = chance.randrange(blocks)
        writes.append((first, chance.randint(1, min(6, blocks - first)), chance.choice([0, *range(1, 250)])))
    system, name = next(
        (system, name)
        for system, disks in world.systems.items()
        for name, candidate in disks.items()
        if candidate is disk
    )
    world.write(system, name, *writes)


def test_fifty_rounds_leave_short_chains_and_no_file(tmp_path: Path) -> None:
    world = World.begin(tmp_path, data=False)
    (original,) = world.systems
    disk = world.systems[original]["root"]
    for number in range(ROUNDS):
        snapshot = world.snapshot(original, running=True)
        fork = world.fork(snapshot)
        pattern = number % 200 + 1
        world.write(fork, "root", (number % 32, 1, pattern))
        world.write(original, "root", (number * 7 % 32, 1, pattern), (number * 5 % 32, 1, pattern + 1))
        world.check()
        world.delete(snapshot)
        world.discard(fork)
        world.fold(disk, LONGEST, by_machine=False)
        world.check()
        assert len(list(world.directory.iterdir())) <= LONGEST  # with the sidecar; the image lies elsewhere
    world.check_by_qemu(tmp_path)
    world.end()
