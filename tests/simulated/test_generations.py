"""Kept generations go from memory to disk, and come back from there as they were, whatever dies meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.operations.records import Operation, OperationKind, OperationStatus
from forkbed.core.systems.view import Power
from forkbed.engine.branch_options import ForkOptions, SnapshotOptions
from forkbed.engine.requests import PowerAction
from tests.simulated.installation import (
    KEPT_IN_MEMORY_S,
    PERSON,
    Installation,
    Killed,
    killed_at_every_boundary,
    succeeded,
)
from tests.simulated.test_branches import held, known_disks, machine, write
from tests.simulated.test_upgrades import check_uplinks, on_disk, promote, rehearse, revert, upgraded

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def promoted(path: Path) -> Installation:
    """Generation 1 is kept; its memory says which boot it is in, and what was written before."""
    installation = upgraded(path)
    rehearse(installation)
    assert succeeded(promote(installation))
    return installation


@pytest.fixture
def pair(tmp_path: Path) -> Installation:
    return promoted(tmp_path)


def look(i: Installation) -> None:
    """What the supervisor does every few seconds."""
    i.controller.supervisor.look()
    i.settle()


def save(i: Installation) -> Operation:
    """Let ten minutes pass."""
    i.world.clock.sleep(KEPT_IN_MEMORY_S)
    i.controller.supervisor.look()
    operation = i.store.operations(limit=1)[0]
    assert operation.kind is OperationKind.SAVE
    return i.ended(operation)


def states(i: Installation) -> dict[int, str]:
    return {view.number: view.state for view in i.controller.generations("pair")}


def powers(i: Installation, system: str) -> set[Power]:
    return {machine(i, system, name).power for name in ("ops", "boss")}


def left_over(i: Installation) -> set[object]:
    """Garbage, disks and memories that belong to nothing that is known."""
    memories = {snapshot_id for snapshot_id, _ in i.world.memories}
    return {
        *i.controller._garbage.find(),
        *(i.world.disks.chains().keys() - known_disks(i)),
        *(memories - {snapshot.id for snapshot in i.store.snapshots()}),
    }


def test_a_kept_generation_gives_its_memory_back_and_returns(pair: Installation) -> None:
    boot = machine(pair, "pair@1", "ops").memory["boot"]
    look(pair)
    assert states(pair) == {2: "live", 1: "kept"}, "at first it stays in memory"
    assert succeeded(save(pair))
    assert states(pair) == {2: "live", 1: "saved"}
    assert powers(pair, "pair@1") == {Power.OFF}
    look(pair)
    assert pair.store.operations(limit=1)[0].kind is OperationKind.SAVE, "once is enough"
    view = pair.controller.generations("pair")[1]
    assert view.memory_bytes == sum(memory.size_bytes for memory in pair.world.memories.values()) > 0
    assert [e.attributes for e in pair.store.events(system="pair") if e.kind == "generation.saved"] == [
        {"generation": 1, "memory_bytes": view.memory_bytes}
    ]
    before = pair.world.clock.now()
    assert succeeded(revert(pair))
    assert held(pair, "pair", "ops") == ("before", "before")
    assert machine(pair, "pair", "ops").memory["boot"] == boot, "its processes went on"
    assert float(machine(pair, "pair", "ops").memory["clock"]) >= before, "and were told the time"
    check_uplinks(pair)
    assert pair.world.memories == {}
    assert left_over(pair) == set()


def test_what_a_promotion_replaced_is_not_cut_again(pair: Installation) -> None:
    calls: list[str] = []
    pair.world.on_call = lambda call, subject: calls.append(call)
    save(pair)
    assert "cuts.cut" not in calls
    assert calls.count("hypervisor.force_off") == 2


def test_what_a_revert_left_is_cut_and_returns(pair: Installation) -> None:
    write(pair, "pair", "ops", "in generation two")
    revert(pair, accept_loss=True)
    assert succeeded(save(pair))
    assert states(pair) == {1: "live", 2: "saved"}
    assert succeeded(revert(pair))
    assert held(pair, "pair", "ops") == ("in generation two", "in generation two")
    assert succeeded(save(pair)), "and so on"
    assert succeeded(revert(pair))
    assert held(pair, "pair", "ops") == ("before", "before")
    assert left_over(pair) == set()


def test_what_would_be_lost_is_refused_before_anything_wakes(pair: Installation) -> None:
    save(pair)
    write(pair, "pair", "ops", "later")
    refused = revert(pair)
    assert refused.error is not None and "ops/root: /count" in str(refused.error)
    assert states(pair) == {2: "live", 1: "saved"}
    assert succeeded(revert(pair, accept_loss=True))
    assert held(pair, "pair", "ops") == ("before", "before")


@pytest.mark.parametrize("call", ["cuts.restore", "networks.ensure", "volumes.prepare_cut"])
def test_a_revert_that_fails_loses_nothing(pair: Installation, call: str) -> None:
    save(pair)
    write(pair, "pair", "ops", "later")
    called: list[str] = []
    # the comparison prepares its cuts of the live generation first
    passed = 4 if call == "volumes.prepare_cut" else 0

    def fail(name: str, subject: str) -> None:
        if name == call:
            called.append(subject)
            if len(called) == passed + 1:
                raise OperationalError(Kind.FAULT, subject, "does not work today")

    pair.world.on_call = fail
    failed = revert(pair, accept_loss=True)
    assert failed.status is OperationStatus.FAILED, called
    assert held(pair, "pair", "ops") == ("later", "later")
    check_uplinks(pair)
    pair.world.on_call = None
    look(pair)
    assert states(pair) == {2: "live", 1: "saved"}, "what woke in vain gives its memory back again"
    assert left_over(pair) == set()
    assert succeeded(revert(pair, accept_loss=True))
    assert held(pair, "pair", "ops") == ("before", "before")


def test_a_kept_generation_outlives_a_reboot_of_the_host(pair: Installation) -> None:
    pair.world.reboot_host()
    look(pair)
    assert states(pair) == {2: "live", 1: "saved"}
    assert powers(pair, "pair") == {Power.RUNNING}
    assert succeeded(revert(pair, accept_loss=True))
    assert held(pair, "pair", "ops") == ("before", "before")


def test_what_of_it_died_alone_comes_back_with_the_rest(pair: Installation) -> None:
    record = pair.store.system("pair@1")
    assert record is not None
    pair.world.crash_machine(record.resolved.machine("boss").id)
    assert succeeded(revert(pair))
    assert held(pair, "pair", "ops") == ("before", "before")
    assert powers(pair, "pair") == {Power.RUNNING}


def test_a_kept_generation_that_somebody_let_run_is_saved_as_it_is_then(pair: Installation) -> None:
    pair.world.clock.sleep(1)
    pair.power("pair@1", PowerAction.RESUME)
    write(pair, "pair@1", "ops", "studied")
    pair.world.clock.sleep(KEPT_IN_MEMORY_S)
    look(pair)
    assert powers(pair, "pair@1") == {Power.RUNNING}, "nobody takes it away from them"
    pair.power("pair@1", PowerAction.PAUSE)
    save(pair)
    assert states(pair) == {2: "live", 1: "saved"}
    assert succeeded(revert(pair))
    assert held(pair, "pair", "ops") == ("studied", "studied")
    assert left_over(pair) == set()


def test_one_that_cannot_be_saved_stays_in_memory(pair: Installation) -> None:
    write(pair, "pair", "ops", "in generation two")
    revert(pair, accept_loss=True)
    pair.world.memory_room_bytes = 1
    failed = save(pair)
    assert failed.status is OperationStatus.FAILED
    assert states(pair) == {1: "live", 2: "kept"}
    look(pair)
    assert pair.store.operations(limit=1)[0].id == failed.id, "not at once again"
    pair.world.memory_room_bytes = 1024**4
    assert succeeded(save(pair))
    assert states(pair) == {1: "live", 2: "saved"}


def test_a_revert_while_it_is_being_saved_is_told_why_not(pair: Installation) -> None:
    told: list[OperationalError] = []

    def ask(call: str, subject: str) -> None:
        if call == "hypervisor.force_off" and not told:
            with pytest.raises(OperationalError) as caught:
                pair.controller.revert("pair", accept_loss=True, request=PERSON)
            told.append(caught.value)

    pair.world.on_call = ask
    save(pair)
    assert told[0].kind is Kind.BUSY
    assert "save by forkbed: a kept generation goes from memory to disk" in str(told[0])


def test_what_does_not_fit_into_memory_is_refused(pair: Installation) -> None:
    save(pair)
    pair.host.capacity.memory_bytes = 1024  # type: ignore[attr-defined]
    with pytest.raises(OperationalError, match=r"generation 1, pair@1: needs .* of memory"):
        revert(pair)


def test_what_was_saved_goes_with_its_generation_only(pair: Installation) -> None:
    save(pair)
    assert [s.name for s in pair.controller.snapshots("pair@1")] == ["saved"]
    with pytest.raises(OperationalError, match="when somebody reverts to it"):
        pair.controller.snapshot_delete("pair@1", "saved", PERSON)
    with pytest.raises(OperationalError, match="is what Forkbed calls"):
        pair.controller.snapshot("pair@1", SnapshotOptions("saved"), PERSON)
    assert [child.name for child in pair.controller.tree("pair")[0].children if child.name == "pair@1"]
    pair.ended(pair.controller.discard("pair@1", PERSON))
    assert pair.world.memories == {}
    assert left_over(pair) == set()
    assert on_disk(pair, "pair", "ops") == {"count": "before", "schema": "two"}


def test_a_fork_of_what_was_saved_outlives_a_revert(pair: Installation) -> None:
    save(pair)
    assert succeeded(pair.ended(pair.controller.fork("pair@1", ForkOptions("study", at="saved"), PERSON)))
    assert succeeded(revert(pair))
    assert held(pair, "study", "ops") == ("before", "before")
    assert left_over(pair) == set()


def begun(path: Path, story: str) -> Installation:
    installation = promoted(path)
    if story == "what a revert left":
        write(installation, "pair", "ops", "in generation two")
        revert(installation, accept_loss=True)
    return installation


@pytest.mark.parametrize("story", ["what a promotion replaced", "what a revert left"])
def test_a_kill_while_it_is_saved_loses_nothing(story: str, tmp_path: Path) -> None:
    for killed in killed_at_every_boundary(tmp_path, lambda path: begun(path, story), save, check_uplinks):
        installation = killed.installation
        look(installation)
        assert set(states(installation).values()) == {"live", "saved"}, killed.boundary
        assert powers(installation, "pair") == {Power.RUNNING}, killed.boundary
        assert left_over(installation) == set(), killed.boundary
        assert succeeded(revert(installation)), killed.boundary
        value = "before" if story == "what a promotion replaced" else "in generation two"
        assert held(installation, "pair", "ops") == (value, value), killed.boundary


def saved(path: Path) -> Installation:
    installation = promoted(path)
    save(installation)
    write(installation, "pair", "ops", "later")
    return installation


def test_a_kill_while_it_comes_back_loses_nothing(tmp_path: Path) -> None:
    boots: set[str] = set()

    def go_back(installation: Installation) -> Operation:
        return revert(installation, accept_loss=True)

    # what comes before and after is as in a revert to what is in memory
    waking = ("wake pair@1: begun", "resume ops: begun")
    for killed in killed_at_every_boundary(tmp_path, saved, go_back, not_both_run, between=waking):
        installation = killed.installation
        not_both_run(installation)
        if not killed.done:
            check_left_alone(killed)
            assert succeeded(go_back(installation)), killed.boundary
        assert held(installation, "pair", "ops") == ("before", "before"), killed.boundary
        assert powers(installation, "pair") == {Power.RUNNING}, killed.boundary
        assert states(installation) == {1: "live", 2: "kept"}, killed.boundary
        assert left_over(installation) == set(), killed.boundary
        boots.add(machine(installation, "pair", "ops").memory["boot"])
    assert len(boots) == 1, "it is always the same boot that goes on"


def check_left_alone(killed: Killed) -> None:
    assert held(killed.installation, "pair", "ops") == ("later", "later"), killed.boundary


def not_both_run(installation: Installation) -> None:
    """Of two generations, one runs; and one has the way out."""
    check_uplinks(installation)
    running = {
        record.name
        for record in installation.store.systems()
        if record.name != "try" and Power.RUNNING in powers(installation, record.name)
    }
    assert len(running) <= 1, running
