"""What forks, systems that are rolled back and generations that wake are made of, and what they are called."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from forkbed.base.ids import InstallationId, SnapshotId
from forkbed.core.operations.records import Requester
from forkbed.core.snapshots.records import FreezeMethod, MachineCut, Snapshot, SnapshotKind, SnapshotStatus
from forkbed.core.systems.branch import Draws, fork_system, is_still_saved, roll_back, waking_goal
from forkbed.core.systems.generations import exchange
from forkbed.core.systems.goal import Wanted
from forkbed.core.systems.names import domain_of
from forkbed.core.systems.spec import ResolvedSystem
from forkbed.core.systems.view import Power
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


def saved(system: ResolvedSystem, *powers: Power, at: float = 100.0) -> Snapshot:
    cuts = tuple(
        MachineCut(
            each.id,
            each.name,
            power,
            method=FreezeMethod.NONE if power is Power.OFF else FreezeMethod.PAUSED,
        )
        for each, power in zip(system.machines, powers, strict=True)
    )
    return replace(snapshot_of(system), machines=cuts, created_at=at)


def test_what_wakes_stands_still_and_takes_the_place_of_what_is_there() -> None:
    kept = resolve(machine("x"), machine("y"), machine("z"))
    snapshot = saved(kept, Power.RUNNING, Power.PAUSED, Power.OFF)
    after = roll_back(
        kept,
        snapshot,
        draws(100),
        transit_pool=IPv4Network("198.19.0.0/30"),
        taken_transits=frozenset(),
    )
    goal = waking_goal(snapshot, kept, after)
    assert goal.wanted == {"x": Wanted.PAUSED, "y": Wanted.PAUSED, "z": Wanted.STOPPED}, "nothing may run"
    assert {memory.machine_id for memory in goal.restore.values()} == {m.id for m in kept.machines[:2]}
    assert goal.networks and goal.may_restart
    assert goal.may_destroy == {"x", "y", "z"}, "the snapshot holds all that their volumes did"


@pytest.mark.parametrize(
    ("kept_at", "changed_at", "still"),
    [
        (200.0, 200.0, True),  # replaced by a promotion, whose cut came before
        (50.0, 50.0, True),  # replaced by a revert, saved later
        (50.0, 90.0, True),  # let run and paused again, then saved
        (50.0, 150.0, False),  # let run after it was saved
        (200.0, 250.0, False),
    ],
)
def test_a_snapshot_is_all_of_a_kept_generation_until_somebody_lets_it_run(
    kept_at: float, changed_at: float, still: bool
) -> None:
    kept = resolve(machine("x"))
    snapshot = saved(kept, Power.RUNNING, at=100.0)
    assert is_still_saved(snapshot, kept, kept_at=kept_at, changed_at=changed_at) is still


def test_a_snapshot_of_the_generation_that_had_its_place_before_is_none_of_it() -> None:
    live = resolve(machine("x"))
    other = fork(live, "demo@2", 1000)
    snapshot = saved(other, Power.RUNNING)
    kept = exchange(live, other, generation=1, at=0.0).kept
    assert kept.id == other.id
    assert not is_still_saved(snapshot, kept, kept_at=200.0, changed_at=200.0)
