"""Snapshots, forks and rollbacks of a whole installation: what each holds, and a kill at every step boundary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import OperationId
from forkbed.core.operations.records import Operation, OperationStatus, StepStatus
from forkbed.core.systems.spec import UplinkKind
from forkbed.core.systems.view import Power
from forkbed.drivers.simulated.world import Fault, SimulatedMachine
from forkbed.engine.branch_options import ForkOptions, SnapshotOptions
from forkbed.engine.requests import PowerAction
from tests.simulated.installation import (
    PERSON,
    TWO_MACHINES,
    Died,
    Installation,
    Killed,
    killed_at_every_boundary,
    succeeded,
)

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def machine(installation: Installation, system: str, name: str) -> SimulatedMachine:
    record = installation.store.system(system)
    assert record is not None
    return installation.world.machines[record.resolved.machine(name).id]


def write(installation: Installation, system: str, name: str, value: str) -> None:
    """A running machine writes to its root volume, and remembers that it did."""
    target = machine(installation, system, name)
    assert target.power is Power.RUNNING
    installation.world.disks.layers[target.in_use["root"][0]].blocks["count"] = value
    target.memory["count"] = value


def held(installation: Installation, system: str, name: str) -> tuple[str, str]:
    """What the machine's disk and its memory say."""
    target = machine(installation, system, name)
    disk = installation.world.disks.content(target.in_use["root"][0])
    return disk.get("count", ""), target.memory.get("count", "")


def snapshot(i: Installation, name: str = "one", *, disks_only: bool = False) -> Operation:
    return i.ended(i.controller.snapshot("pair", SnapshotOptions(name, disks_only=disks_only), PERSON))


def fork(
    i: Installation, name: str = "try", *, at: str = "", cold: bool = False, count: int = 1
) -> Operation:
    return i.ended(i.controller.fork("pair", ForkOptions(name, at=at, cold=cold, count=count), PERSON))


def discard(i: Installation, name: str = "try") -> Operation:
    return i.ended(i.controller.discard(name, PERSON))


def rollback(i: Installation, name: str = "one") -> Operation:
    return i.ended(i.controller.rollback("pair", name, PERSON))


@pytest.fixture
def pair(tmp_path: Path) -> Installation:
    installation = Installation(tmp_path)
    assert succeeded(installation.up(TWO_MACHINES))
    write(installation, "pair", "ops", "before")
    return installation


def test_a_live_fork_goes_on_where_the_original_was(pair: Installation) -> None:
    boot = machine(pair, "pair", "ops").boot_id
    operation = fork(pair)
    assert succeeded(operation)
    assert operation.result is not None
    assert operation.result["forks"] == ["try"]
    assert held(pair, "try", "ops") == ("before", "before")
    assert machine(pair, "try", "ops").memory["boot"] == machine(pair, "pair", "ops").memory["boot"]
    assert machine(pair, "pair", "ops").boot_id == boot, "the original was not restarted"
    write(pair, "try", "ops", "in the fork")
    write(pair, "pair", "ops", "in the original")
    assert held(pair, "try", "ops") == ("in the fork", "in the fork")
    assert held(pair, "pair", "ops") == ("in the original", "in the original")


def test_a_fork_keeps_names_and_addresses_and_has_no_way_out(pair: Installation) -> None:
    fork(pair)
    original, copy = pair.store.system("pair"), pair.store.system("try")
    assert original is not None and copy is not None
    for mine, theirs in zip(original.resolved.machines, copy.resolved.machines, strict=True):
        assert [(n.address, n.mac) for n in mine.nics] == [(n.address, n.mac) for n in theirs.nics]
        assert mine.instance_id == theirs.instance_id
        assert mine.generation_uuid != theirs.generation_uuid
        assert mine.id != theirs.id
        assert theirs.spec.publish == ()
    assert copy.resolved.networks[0].spec.uplink is UplinkKind.RECORDED
    assert copy.resolved.networks[0].transit is None
    assert copy.resolved.inner_name == "pair"


def test_no_manifest_opens_a_fork(pair: Installation) -> None:
    fork(pair)
    assert succeeded(pair.up(TWO_MACHINES.replace("system: pair", "system: try")))
    copy = pair.store.system("try")
    assert copy is not None
    assert copy.resolved.networks[0].spec.uplink is UplinkKind.RECORDED
    assert not any(m.spec.publish for m in copy.resolved.machines)
    assert held(pair, "try", "ops") == ("before", "before"), "nothing was restarted for it"


def test_a_fork_that_could_not_be_told_the_time_says_so_for_good(pair: Installation) -> None:
    pair.world.on_call = lambda call, subject: (
        pair.world.deaf.add("boss")
        if (call, subject) == ("guests.awaken", "boss")
        else pair.world.deaf.clear()
    )
    fork(pair)
    told = [e for e in pair.store.events(system="try") if e.kind == "machine.not-awakened"]
    assert [event.machine for event in told] == ["boss"]
    assert "clock" in str(told[0].attributes)


def test_a_machine_whose_awakening_was_cut_off_is_awakened_later(pair: Installation) -> None:
    snapshot(pair)

    def die(call: str, subject: str) -> None:
        if (call, subject) == ("guests.awaken", "boss"):
            raise Died

    pair.world.on_call = die
    with pytest.raises(AssertionError):  # the operation has not ended: its controller is dead
        fork(pair, at="one")
    assert "entropy" not in machine(pair, "try", "boss").memory
    pair.world.on_call = lambda call, subject: None
    pair.restart()
    pair.settle()
    assert "entropy" in machine(pair, "try", "boss").memory
    journal = pair.store.journal(pair.store.operations(limit=1)[0].id)
    of_boss = [entry.status for entry in journal if entry.key == "awaken boss"]
    assert of_boss == [StepStatus.INTERRUPTED, StepStatus.CHANGED]


def test_several_forks_of_one_cut(pair: Installation) -> None:
    assert succeeded(fork(pair, count=3))
    names = [f"try-{number}" for number in (1, 2, 3)]
    for name in names:
        assert held(pair, name, "ops") == ("before", "before")
    entropies = {machine(pair, name, "ops").memory["entropy"] for name in names}
    assert len(entropies) == 3
    assert pair.store.snapshots() == []
    assert pair.world.memories == {}, "the memory of a cut goes when its forks run"


def test_a_fork_of_a_snapshot_and_a_fork_of_a_fork(pair: Installation) -> None:
    assert succeeded(snapshot(pair))
    write(pair, "pair", "ops", "after")
    assert succeeded(fork(pair, at="one"))
    assert held(pair, "try", "ops") == ("before", "before")
    write(pair, "try", "ops", "changed")
    again = pair.ended(pair.controller.fork("try", ForkOptions("again"), PERSON))
    assert succeeded(again)
    assert held(pair, "again", "ops") == ("changed", "changed")
    kept = discard(pair)
    assert kept.result == {"kept_for": ["again"]}
    assert held(pair, "again", "ops") == ("changed", "changed")


def test_a_cold_fork_boots_from_the_disks(pair: Installation) -> None:
    assert succeeded(fork(pair, cold=True))
    assert held(pair, "try", "ops") == ("before", "")
    assert pair.running() == {"ops", "boss"}


def test_a_rollback_keeps_what_it_replaces(pair: Installation) -> None:
    assert succeeded(snapshot(pair))
    write(pair, "pair", "ops", "after")
    operation = rollback(pair)
    assert succeeded(operation)
    assert held(pair, "pair", "ops") == ("before", "before")
    assert operation.result is not None
    kept = str(operation.result["kept"])
    assert kept.startswith("before-rollback-")
    assert succeeded(rollback(pair, kept))
    assert held(pair, "pair", "ops") == ("after", "after")
    record = pair.store.system("pair")
    assert record is not None and record.revision == 3


def test_a_rollback_brings_the_declaration_back(pair: Installation) -> None:
    snapshot(pair)
    pair.up(TWO_MACHINES.replace('publish: ["8080:80"]', 'publish: ["9090:80"]'))
    assert succeeded(rollback(pair))
    detail = pair.controller.system("pair")
    assert {m.name: m.published for m in detail.machines}["boss"] == ("127.0.0.1:8080 -> 80/tcp",)
    assert "8080:80" in detail.manifest


def test_paused_and_stopped_machines_stay_what_they_are(pair: Installation) -> None:
    pair.power("pair", PowerAction.PAUSE, "boss")
    pair.power("pair", PowerAction.STOP, "ops")
    assert succeeded(fork(pair))
    assert machine(pair, "try", "boss").power is Power.PAUSED
    assert machine(pair, "pair", "boss").power is Power.PAUSED
    assert machine(pair, "try", "ops").power is Power.OFF


def test_a_cut_that_fails_leaves_nothing(pair: Installation) -> None:
    fault = OperationalError(Kind.CONFLICT, "memory", "no space")
    pair.world.faults.append(Fault("cuts.freeze", "", fault))
    operation = fork(pair)
    assert operation.status is OperationStatus.FAILED
    assert pair.store.system("try") is None
    assert pair.store.snapshots() == []
    assert pair.controller._garbage.find() == ()
    assert held(pair, "pair", "ops") == ("before", "before")
    assert succeeded(fork(pair)), "and the next one succeeds"


def test_what_does_not_fit_is_refused_before_anything(pair: Installation) -> None:
    pair.host.capacity.memory_bytes = 1024  # type: ignore[attr-defined]
    with pytest.raises(OperationalError, match="of memory; the host has"):
        fork(pair)
    assert pair.store.system("try") is None


def test_what_cannot_be_cut_live_is_refused_with_the_alternative(pair: Installation) -> None:
    pair.world.unforkable["ops"] = "uses a host device (VFIO)"
    with pytest.raises(OperationalError, match="VFIO"):
        fork(pair)
    assert succeeded(fork(pair, cold=True))


def test_names_that_are_taken_or_wrong(pair: Installation) -> None:
    snapshot(pair)
    with pytest.raises(OperationalError, match="exists already"):
        snapshot(pair)
    with pytest.raises(OperationalError, match="cannot be called that"):
        snapshot(pair, "No Name")
    with pytest.raises(OperationalError, match="exists already"):
        fork(pair, "pair")
    with pytest.raises(OperationalError, match="is not known"):
        fork(pair, at="nothing")
    with pytest.raises(OperationalError, match="is no fork"):
        discard(pair, "pair")


def test_deleting_the_original_leaves_its_forks(pair: Installation) -> None:
    snapshot(pair)
    fork(pair, at="one")
    assert succeeded(pair.down("pair", delete=True))
    assert held(pair, "try", "ops") == ("before", "before")
    assert [node.name for node in pair.controller.tree(None)] == ["try"]
    assert pair.controller._garbage.find() == ()


def test_the_tree_and_the_list(pair: Installation) -> None:
    snapshot(pair)
    fork(pair, at="one")
    fork(pair, "own")
    [root] = pair.controller.tree("try")
    assert root.name == "pair"
    assert {(child.kind, child.name) for child in root.children} == {("snapshot", "one"), ("fork", "own")}
    assert [child.name for child in root.children[0].children] == ["try"]
    assert pair.controller.tree("pair") == pair.controller.tree("own") == [root]
    assert {s.name: s.fork_of for s in pair.controller.systems()} == {
        "own": "pair",
        "pair": "",
        "try": "pair",
    }
    assert pair.controller.snapshots("pair")[0].forks == ("try",)


def test_expired_things_go_unless_something_needs_them(pair: Installation) -> None:
    options = SnapshotOptions("short", expires_in_s=60)
    pair.ended(pair.controller.snapshot("pair", options, PERSON))
    pair.ended(pair.controller.fork("pair", ForkOptions("brief", at="short", expires_in_s=600), PERSON))
    pair.world.clock.sleep(120)
    pair.controller.supervisor.look()
    pair.settle()
    assert [s.name for s in pair.controller.snapshots("pair")] == ["short"], "its fork is still there"
    pair.world.clock.sleep(1200)
    pair.controller.supervisor.look()
    pair.settle()
    assert pair.store.system("brief") is None
    pair.controller.supervisor.look()
    pair.settle()
    assert pair.controller.snapshots("pair") == []


def test_long_chains_are_folded_by_themselves(pair: Installation) -> None:
    for often in ("once", "again at once"):
        for number in range(12):
            write(pair, "pair", "ops", f"{often} {number}")
            assert succeeded(snapshot(pair, f"s{number}"))
            assert succeeded(pair.ended(pair.controller.snapshot_delete("pair", f"s{number}", PERSON)))
        pair.controller.supervisor.look()
        pair.settle()
        assert all(len(files) <= 8 for files in machine(pair, "pair", "ops").in_use.values())
        assert held(pair, "pair", "ops") == (f"{often} 11", f"{often} 11")


def test_a_fold_that_gave_way_is_begun_again_at_once(pair: Installation) -> None:
    for number in range(12):
        assert succeeded(snapshot(pair, f"s{number}"))
        assert succeeded(pair.ended(pair.controller.snapshot_delete("pair", f"s{number}", PERSON)))
    folds: list[str] = []

    def give_way(_boundary: str) -> None:
        [fold] = pair.store.operations(active_only=True)
        if not folds:
            folds.append(fold.id)
            pair.controller.cancel(fold.id, PERSON)

    pair.restart(give_way)
    pair.controller.supervisor.look()
    pair.settle()
    first = pair.store.operation(OperationId(folds[0]))
    assert first is not None and first.status is OperationStatus.CANCELLED
    pair.controller.supervisor.look()
    pair.settle()
    assert all(len(files) <= 8 for files in machine(pair, "pair", "ops").in_use.values())


Action = Callable[[Installation], object]
STORIES: dict[str, tuple[list[Action], Action]] = {
    "snapshot": ([], snapshot),
    "disks only": ([], lambda i: snapshot(i, disks_only=True)),
    "fork": ([], fork),
    "two forks": ([], lambda i: fork(i, count=2)),
    "fork of a snapshot": ([snapshot], lambda i: fork(i, at="one")),
    "cold fork": ([], lambda i: fork(i, cold=True)),
    "rollback": (
        [snapshot, lambda i: write(i, "pair", "ops", "after")],
        rollback,
    ),
    "discard": ([fork], discard),
    "delete a snapshot": (
        [snapshot],
        lambda i: i.ended(i.controller.snapshot_delete("pair", "one", PERSON)),
    ),
    "fold": (
        [lambda i: [snapshot(i, f"s{n}") for n in range(5)]],
        lambda i: i.ended(i.controller.fold("pair", PERSON)),
    ),
}


def begun(path: Path, story: str) -> Installation:
    installation = Installation(path)
    installation.up(TWO_MACHINES)
    write(installation, "pair", "ops", "before")
    for step in STORIES[story][0]:
        step(installation)
    return installation


@pytest.mark.parametrize("story", STORIES)
def test_a_kill_at_every_boundary_finishes_or_leaves_nothing(story: str, tmp_path: Path) -> None:
    count = 0
    for killed in killed_at_every_boundary(tmp_path, lambda path: begun(path, story), STORIES[story][1]):
        check(story, killed)
        count += 1
    assert count >= 3


def check(story: str, killed: Killed) -> None:
    installation, done = killed.installation, killed.done
    assert installation.controller._garbage.find() == (), killed.boundary
    assert installation.world.disks.chains().keys() <= known_disks(installation), killed.boundary
    systems = {record.name for record in installation.store.systems()}
    if "fork" in story:
        names = {"try-1", "try-2"} if story == "two forks" else {"try"}
        assert systems == ({"pair"} | names if done else {"pair"}), killed.boundary
        for name in systems - {"pair"}:
            assert held(installation, name, "ops")[0] == "before"
        assert killed.boots <= {m.boot_id for m in installation.world.machines.values()}, (
            "the original ran on"
        )
    if story in ("snapshot", "disks only"):
        assert [s.name for s in installation.store.snapshots()] == (["one"] if done else [])
    if story == "rollback":
        expected = "before" if done else "after"
        assert held(installation, "pair", "ops") == (expected, expected), killed.boundary
        assert len(installation.store.snapshots()) == (2 if done else 1)
    assert all(machine(installation, name, "ops").power is Power.RUNNING for name in systems), killed.boundary
    assert {m for m, _ in installation.world.memories} <= {s.id for s in installation.store.snapshots()}


def known_disks(installation: Installation) -> set[object]:
    """What may keep layers: declared volumes, and the cuts of snapshots."""
    volumes: set[object] = {
        volume.id
        for record in installation.store.systems()
        for resolved in record.resolved.machines
        for volume in resolved.volumes
    }
    return volumes | {
        (snapshot.id, volume.id)
        for snapshot in installation.store.snapshots()
        for resolved in snapshot.resolved.machines
        for volume in resolved.volumes
    }
