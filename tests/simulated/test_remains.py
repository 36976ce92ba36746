"""What may be left of snapshots and forks that nobody knows: found, removed, and never taken for more than it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import SnapshotId
from forkbed.core.operations.records import OperationStatus
from forkbed.core.snapshots.records import Snapshot, SnapshotStatus
from forkbed.drivers.simulated.world import Fault
from forkbed.engine.branch_options import ForkOptions, SnapshotOptions
from forkbed.engine.requests import GarbageItem
from tests.simulated.installation import PERSON, TWO_MACHINES, Installation, succeeded, wait_for


@pytest.fixture
def pair(tmp_path: Path) -> Installation:
    installation = Installation(tmp_path)
    assert succeeded(installation.up(TWO_MACHINES))
    return installation


def snapshot(installation: Installation, name: str = "one") -> Snapshot:
    operation = installation.controller.snapshot("pair", SnapshotOptions(name), PERSON)
    assert succeeded(installation.ended(operation))
    return next(found for found in installation.store.snapshots() if found.name == name)


def found(installation: Installation) -> tuple[GarbageItem, ...]:
    return installation.controller.garbage(dry_run=True, request=PERSON).items


def kinds(installation: Installation) -> list[str]:
    return [item.kind for item in found(installation)]


def collect(installation: Installation) -> None:
    report = installation.controller.garbage(dry_run=False, request=PERSON)
    assert report.operation is not None, "there was nothing to collect"
    assert succeeded(installation.ended(report.operation))


def layers(installation: Installation) -> int:
    return len(installation.world.disks.layers)


def test_nobodys_cuts_and_memories_go(pair: Installation) -> None:
    before = layers(pair)
    lost = snapshot(pair)
    assert found(pair) == ()
    pair.store.delete_snapshot(lost.id)
    pair.host.sidecars.remove("snapshots", lost.id)
    [item] = found(pair)
    assert (item.kind, item.name) == ("snapshot", lost.id)
    assert item.size_bytes >= sum(memory.size_bytes for memory in pair.world.memories.values()) > 0
    collect(pair)
    assert pair.world.memories == {}
    assert pair.world.disks.cuts == {}
    assert layers(pair) == 2 * before, "the machines run on, on one layer more"
    assert pair.running() == {"ops", "boss"}
    assert found(pair) == ()


def test_a_snapshot_that_an_older_database_does_not_know_stays(pair: Installation) -> None:
    lost = snapshot(pair)
    pair.store.delete_snapshot(lost.id)
    assert found(pair) == ()
    pair.host.cuts.remove_memory(lost.id)
    assert found(pair) == (), "its disks are there"
    pair.host.volume_cuts.release_cut(lost.id)
    [item] = found(pair)
    assert (item.kind, item.name, item.reason) == ("snapshot", "one", "nothing of it is left")
    collect(pair)
    assert pair.host.sidecars.read_all("snapshots") == {}


def test_a_lost_database_leaves_its_snapshots_alone(pair: Installation) -> None:
    lost = snapshot(pair)
    record = pair.store.system("pair")
    assert record is not None
    pair.store.delete_system(record.id)
    pair.host.sidecars.remove("snapshots", lost.id)
    assert found(pair) == ()
    pair.host.volume_cuts.release_cut(lost.id)
    assert pair.world.memories
    assert found(pair) == (), "a memory does not say whose it is"
    pair.host.sidecars.remove("systems", record.id)
    assert set(kinds(pair)) == {"machine", "volume", "snapshot", "network"}
    collect(pair)
    assert pair.world.memories == {}
    assert layers(pair) == 0


def test_a_prepared_cut_of_nobody_is_settled(pair: Installation) -> None:
    record = pair.store.system("pair")
    assert record is not None
    volume = record.resolved.machine("ops").volumes[0]
    before = layers(pair)
    pair.host.volume_cuts.prepare_cut(volume.id, SnapshotId("ghost"))
    assert [(item.kind, item.name) for item in found(pair)] == [("snapshot", "ghost")]
    collect(pair)
    assert pair.host.volume_cuts.prepared_cuts() == {}
    assert layers(pair) == before
    assert snapshot(pair).status is SnapshotStatus.COMPLETE, "the volume can be cut again"


def leave_unfinished(pair: Installation) -> None:
    """A snapshot that fails, and that cannot be taken back because the host is silent."""
    silent = OperationalError(Kind.UNREACHABLE, "host", "does not answer")
    pair.world.faults += [Fault("cuts.freeze", "", silent), Fault("cuts.remove_memory", "", silent, times=2)]
    operation = pair.ended(pair.controller.snapshot("pair", SnapshotOptions("one"), PERSON))
    assert operation.status is OperationStatus.FAILED
    assert [s.name for s in pair.store.snapshots() if s.status is not SnapshotStatus.COMPLETE] == ["one"]


def test_an_unfinished_snapshot_that_no_operation_is_about_goes(pair: Installation) -> None:
    leave_unfinished(pair)
    assert [(item.kind, item.name) for item in found(pair)] == [("snapshot", "pair@one")]
    collect(pair)
    assert pair.store.snapshots() == []
    assert snapshot(pair), "and its name is free again"


def test_the_next_controller_takes_it_back(pair: Installation) -> None:
    snapshot(pair, "kept")
    leave_unfinished(pair)
    pair.restart()
    pair.controller.start()
    pair.controller.stop()
    assert [left.name for left in pair.store.snapshots()] == ["kept"]
    assert pair.running() == {"ops", "boss"}


def test_the_cut_of_forks_that_could_not_be_taken_back_goes(pair: Installation) -> None:
    silent = OperationalError(Kind.UNREACHABLE, "host", "does not answer")
    pair.world.faults.append(Fault("volumes.release_cut", "", silent))
    operation = pair.ended(pair.controller.fork("pair", ForkOptions("try"), PERSON))
    assert operation.status is OperationStatus.FAILED
    assert pair.store.snapshots() != []
    pair.restart()
    pair.controller.start()
    pair.controller.stop()
    assert pair.store.snapshots() == []
    assert pair.world.memories == {}


def test_what_an_operation_is_about_is_no_garbage(parallel: Installation) -> None:
    assert succeeded(parallel.up(TWO_MACHINES))
    looks: list[tuple[GarbageItem, ...]] = []

    def look(call: str, _subject: str) -> None:
        if call in ("cuts.disks", "cuts.await_memory"):
            parallel.world.on_call = None
            looks.append(parallel.controller.garbage(dry_run=True, request=PERSON).items)
            parallel.world.on_call = look

    parallel.world.on_call = look
    operation = parallel.controller.snapshot("pair", SnapshotOptions("one"), PERSON)
    wait_for(lambda: (ended := parallel.store.operation(operation.id)) is not None and ended.status.ended)
    assert succeeded(parallel.ended(operation))
    assert len(looks) == 3
    assert set(looks) == {()}


def test_all_that_a_lost_system_left_goes_at_once(pair: Installation) -> None:
    lost, record = snapshot(pair), pair.store.system("pair")
    assert record is not None
    for layer in pair.world.disks.layers.values():
        layer.blocks["written"] = "something"
    pair.store.delete_system(record.id)
    pair.host.sidecars.remove("systems", record.id)
    pair.host.sidecars.remove("snapshots", lost.id)
    collect(pair)
    assert found(pair) == (), (
        "the snapshot's layers were shared with the volumes, and are its own without them"
    )
    assert layers(pair) == 0


def test_a_fork_that_nobody_knows_goes_and_its_original_stays(pair: Installation) -> None:
    lost = snapshot(pair)
    assert succeeded(pair.ended(pair.controller.fork("pair", ForkOptions("try", at="one"), PERSON)))
    fork = pair.store.system("try")
    assert fork is not None
    pair.store.delete_system(fork.id)
    pair.host.sidecars.remove("systems", fork.id)
    pair.store.delete_snapshot(lost.id)
    pair.host.sidecars.remove("snapshots", lost.id)
    assert set(kinds(pair)) == {"machine", "volume", "snapshot", "network"}
    collect(pair)
    assert found(pair) == (), "the layers that the fork stood on went too, in one collection"
    assert len(pair.world.machines) == 2
    assert pair.running() == {"ops", "boss"}
