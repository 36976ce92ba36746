"""What a fork or a system that is rolled back is called by the hypervisor, also after generations changed places."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Network

from forkbed.base.ids import InstallationId, SnapshotId
from forkbed.core.operations.records import Requester
from forkbed.core.snapshots.records import Snapshot, SnapshotKind, SnapshotStatus
from forkbed.core.systems.branch import Draws, fork_system, roll_back
from forkbed.core.systems.generations import exchange
from forkbed.core.systems.names import domain_of
from forkbed.core.systems.spec import ResolvedSystem
from tests.unit.systems.test_resolve import machine, resolve

INSTALLATION = InstallationId("t0st")


def snapshot_of(system: ResolvedSystem) -> Snapshot:
    return Snapshot(
        SnapshotId("snap"),
        system.id,
        "s",
        SnapshotKind.LIVE,
        SnapshotStatus.COMPLETE,
        system,
        0.0,
        Requester(0, "root", ""),
    )


def draws(start: int) -> Draws:
    numbers = itertools.count(start)
    return Draws(INSTALLATION, lambda length: f"{next(numbers):0{length}d}", lambda: f"uuid-{next(numbers)}")


def fork(system: ResolvedSystem, name: str, start: int) -> ResolvedSystem:
    return fork_system(snapshot_of(system), name, draws(start))


def domains(*systems: ResolvedSystem) -> list[str]:
    return [domain_of(INSTALLATION, system.name, each) for system in systems for each in system.machines]


def test_no_two_machines_share_a_name_however_often_generations_change_places() -> None:
    live = resolve(machine("x"), machine("y"))
    everyone: list[ResolvedSystem] = []
    for generation in range(1, 4):
        attempt = fork(live, f"demo@{generation + 1}", generation * 1000)
        changed = exchange(live, attempt, generation=generation, at=0.0)
        assert domains(changed.live) == domains(attempt)  # what runs keeps its name
        live, kept = changed.live, changed.kept
        everyone += [kept, fork(live, f"try-{generation}", generation * 1000 + 500)]
    everyone.append(live)
    names = domains(*everyone)
    assert len(set(names)) == len(names) == 14


def test_a_rollback_keeps_the_names_of_the_machines_that_are_there() -> None:
    first = resolve(machine("x"))
    attempt = fork(first, "demo@2", 1000)
    live = exchange(first, attempt, generation=1, at=0.0).live
    back = roll_back(
        live,
        snapshot_of(first),
        draws(2000),
        transit_pool=IPv4Network("198.19.0.0/30"),
        taken_transits=frozenset(),
    )
    assert domains(back) == domains(live)
    assert [each.uuid for each in back.machines] == [each.uuid for each in live.machines]
