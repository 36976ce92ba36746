"""What must hold when things come at a bad moment: ends of the controller, deletions, repairs, guests in a loop."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId, OperationId, VolumeId
from forkbed.core.operations.records import Operation, OperationKind, OperationStatus
from forkbed.core.operations.rules import Admit
from forkbed.core.systems.goal import Goal, Wanted
from forkbed.drivers.simulated.world import Fault
from forkbed.engine.planloop import REBOOT_LIMIT
from forkbed.engine.requests import PowerAction, UpOptions
from forkbed.engine.runner import GOAL
from tests.simulated.installation import (
    PATIENT,
    PERSON,
    TWO_MACHINES,
    Died,
    Installation,
    bundle,
    succeeded,
    wait_for,
)


def machine_id(installation: Installation, name: str) -> MachineId:
    machines = installation.world.machines.items()
    return next(i for i, machine in machines if machine.definition.machine.name == name)


def wanted(installation: Installation) -> dict[str, Wanted]:
    record = installation.store.system("pair")
    assert record is not None
    return dict(record.wanted)


def test_an_operation_under_way_is_resumed_after_an_orderly_end(parallel: Installation) -> None:
    parallel.world.deaf.add("ops")
    up = parallel.controller.up(bundle(PATIENT), UpOptions(), PERSON)
    wait_for(lambda: parallel.running() == {"ops"})
    parallel.controller.dispatcher.stop(timeout_s=10)
    assert parallel.controller.dispatcher.wait_idle(10)
    left = parallel.store.operation(up.id)
    assert left is not None
    assert left.status is OperationStatus.RUNNING
    assert wanted(parallel) == {"ops": Wanted.RUNNING, "boss": Wanted.RUNNING}
    parallel.world.deaf.clear()
    parallel.restart()
    parallel.controller.dispatcher.dispatch()
    assert succeeded(parallel.ended(up))
    assert parallel.running() == {"ops", "boss"}


def test_an_end_that_takes_the_steps_threads_away_fails_nothing(parallel: Installation) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hold(call: str, _subject: str) -> None:
        if call == "hypervisor.start":
            entered.set()
            go_on.wait(10)

    parallel.world.on_call = hold
    up = parallel.controller.up(bundle(TWO_MACHINES), UpOptions(), PERSON)
    assert entered.wait(10)
    parallel.controller.dispatcher.stop(timeout_s=0.1)
    parallel.executor.shutdown(wait=False, cancel_futures=True)
    go_on.set()
    assert parallel.controller.dispatcher.wait_idle(10)
    left = parallel.store.operation(up.id)
    assert left is not None
    assert left.status is OperationStatus.RUNNING
    parallel.world.on_call = None
    parallel.restart()
    parallel.controller.dispatcher.dispatch()
    assert succeeded(parallel.ended(up))


def test_a_guest_that_only_reboots_fails_the_operation(installation: Installation) -> None:
    def reboot(call: str, subject: str) -> None:
        if (call, subject) == ("guests.probe", "ops"):
            installation.world.reset_machine(machine_id(installation, "ops"))

    installation.world.on_call = reboot
    operation = installation.up(TWO_MACHINES)
    assert operation.status is OperationStatus.FAILED
    assert operation.error is not None
    assert f"restarted {REBOOT_LIMIT} times" in str(operation.error["brief"])


def test_an_up_is_not_accepted_against_a_system_that_is_just_deleted(parallel: Installation) -> None:
    parallel.ended(parallel.controller.up(bundle(TWO_MACHINES), UpOptions(), PERSON))
    me, looked = threading.current_thread(), threading.Event()
    down: list[Operation] = []

    def delete_meanwhile(call: str, _subject: str) -> None:
        if call == "hypervisor.machines" and threading.current_thread() is me and not looked.is_set():
            looked.set()
            down.append(parallel.controller.down("pair", delete=True, request=PERSON))
            wait_for(lambda: not parallel.world.machines and not parallel.world.networks)
            threading.Event().wait(0.3)

    parallel.world.on_call = delete_meanwhile
    with pytest.raises(OperationalError) as caught:
        parallel.controller.up(bundle(TWO_MACHINES), UpOptions(), PERSON)
    assert caught.value.kind is Kind.BUSY
    parallel.world.on_call = None
    assert succeeded(parallel.ended(down[0]))
    assert parallel.store.systems() == []
    assert succeeded(parallel.ended(parallel.controller.up(bundle(TWO_MACHINES), UpOptions(), PERSON)))
    assert parallel.controller.system("pair").summary.revision == 1


def test_a_repair_decided_before_a_stop_does_not_undo_it(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    installation.power("pair", PowerAction.STOP, "ops")
    record = installation.store.system("pair")
    assert record is not None
    stale = Goal({"ops": Wanted.RUNNING, "boss": Wanted.RUNNING})
    installation.store.submit(
        Operation(
            id=OperationId("stale"),
            kind=OperationKind.RECONCILE,
            system_id=record.id,
            subject="pair",
            goal=GOAL.dump_python(stale, mode="json"),
            requester=PERSON.requester,
            status=OperationStatus.QUEUED,
            created_at=installation.world.clock.now(),
        ),
        lambda _active: Admit(),
    )
    installation.settle()
    assert installation.running() == {"boss"}
    assert wanted(installation)["ops"] is Wanted.STOPPED


def test_a_cancellation_is_about_nothing_else(parallel: Installation) -> None:
    text = PATIENT.replace("after: [ops]", "restart: always")
    parallel.ended(parallel.controller.up(bundle(text), UpOptions(), PERSON))
    parallel.world.stubborn.add("boss")
    asked = threading.Event()
    parallel.world.on_call = lambda call, _subject: asked.set() if call == "hypervisor.shut_down" else None
    stop = parallel.controller.power("pair", ("boss",), PowerAction.RESTART, force=False, request=PERSON)
    assert asked.wait(10)
    parallel.world.crash_machine(machine_id(parallel, "ops"))
    parallel.controller.cancel(stop.id, PERSON)
    assert parallel.controller.dispatcher.wait_idle(10)
    assert wanted(parallel)["ops"] is Wanted.RUNNING


def test_what_is_cancelled_before_it_began_changes_nothing(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    before = installation.store.system("pair")
    assert before is not None
    goal = Goal({"ops": Wanted.STOPPED}, networks=False)
    operation = Operation(
        id=OperationId("early"),
        kind=OperationKind.POWER,
        system_id=before.id,
        subject="pair/ops",
        goal=GOAL.dump_python(goal, mode="json"),
        requester=PERSON.requester,
        status=OperationStatus.QUEUED,
        created_at=installation.world.clock.now(),
    )
    installation.store.submit(operation, lambda _active: Admit())
    installation.store.set_status(operation.id, OperationStatus.CANCELLING, 1.0)
    installation.world.crash_machine(machine_id(installation, "ops"))
    installation.settle()
    after = installation.store.operation(operation.id)
    assert after is not None
    assert after.status is OperationStatus.CANCELLED
    assert installation.store.system("pair") == before


def test_patience_with_the_host_begins_anew_when_it_answered(installation: Installation) -> None:
    silent = OperationalError(Kind.UNREACHABLE, "host", "does not answer")
    looks = itertools.chain([False, True, False], itertools.repeat(True))

    def hear(call: str, _subject: str) -> None:
        if call == "networks.ensure":
            installation.world.clock.sleep(500)
        ours = threading.current_thread().name.startswith("operation-")
        if call == "hypervisor.machines" and ours and not next(looks):
            raise silent

    broken = OperationalError(Kind.FAULT, "network control", "cannot be made")
    installation.world.faults += [
        Fault("networks.ensure", "control", broken),
        Fault("volumes.create", "", broken, times=2),
    ]
    installation.world.on_call = hear
    operation = installation.up(TWO_MACHINES)
    assert operation.error is not None
    assert operation.error["brief"] == "cannot be made"


def test_what_cannot_be_recorded_is_tried_again(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OperationalError(Kind.FAULT, "database", "cannot be written: disk full")
    set_status = installation.store.set_status
    refusals = iter([full] * 4)  # at its start and its end, twice

    def refuse(*args: object, **named: object) -> Operation:
        error = next(refusals, None)
        if error is not None:
            raise error
        return set_status(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("forkbed.engine.dispatcher.RETRY_AFTER_S", 0.01)
    monkeypatch.setattr(installation.store, "set_status", refuse)
    operation = installation.controller.up(bundle(TWO_MACHINES), UpOptions(), PERSON)
    wait_for(lambda: (found := installation.store.operation(operation.id)) is not None and found.status.ended)
    assert succeeded(installation.ended(operation))


def test_a_system_that_comes_while_garbage_is_looked_for_is_none(installation: Installation) -> None:
    me, came = threading.current_thread(), threading.Event()

    def come(call: str, _subject: str) -> None:
        if call == "volumes.volumes" and threading.current_thread() is me and not came.is_set():
            came.set()
            assert succeeded(installation.up(TWO_MACHINES))

    installation.world.on_call = come
    assert installation.controller.garbage(dry_run=True, request=PERSON).items == ()
    assert came.is_set()


def test_garbage_that_is_wanted_again_stays(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    networks = dict(installation.world.networks)
    volume = next(iter(installation.world.volumes.values()))
    installation.down("pair")
    installation.world.networks.update(networks)  # as after a `down` that could not remove it
    stray = replace(volume, volume_id=VolumeId("stray"))
    installation.world.volumes[stray.volume_id] = stray

    def come(call: str, subject: str) -> None:
        if (call, subject) == ("volumes.remove", "stray"):
            installation.world.on_call = None
            up = installation.controller.up(bundle(TWO_MACHINES), UpOptions(), PERSON)
            wait_for(
                lambda: (found := installation.store.operation(up.id)) is not None and found.status.ended
            )

    installation.world.on_call = come
    report = installation.controller.garbage(dry_run=False, request=PERSON)
    assert {item.kind for item in report.items} == {"volume", "network"}
    assert report.operation is not None
    assert succeeded(installation.ended(report.operation))
    assert "stray" not in installation.world.volumes
    assert set(installation.world.networks) == set(networks)


def test_what_was_not_accepted_leaves_no_sidecar(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_args: object, **_named: object) -> Operation:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(installation.store, "submit", die)
        with pytest.raises(Died):
            installation.controller.up(bundle(TWO_MACHINES), UpOptions(), PERSON)
    assert installation.host.sidecars.read_all("systems") == {}
    assert installation.host.sidecars.read_all("revisions") == {}


def test_sidecars_that_a_kill_left_out_are_written_at_the_next_start(installation: Installation) -> None:
    def die(call: str, _subject: str) -> None:
        if call == "sidecars.write":
            raise Died

    installation.world.on_call = die
    with pytest.raises(Died):
        installation.controller.up(bundle(TWO_MACHINES), UpOptions(), PERSON)
    installation.world.on_call = None
    installation.restart()
    installation.controller.start()
    installation.controller.stop()
    record = installation.store.system("pair")
    assert record is not None
    assert installation.host.sidecars.read_all("systems")[record.id]["revision"] == 1
    assert set(installation.host.sidecars.read_all("revisions")) == {f"{record.id}.1"}


def test_a_hypervisor_that_restarts_while_a_guest_boots_is_borne(installation: Installation) -> None:
    silences = iter([OperationalError(Kind.UNREACHABLE, "hypervisor", "does not answer")])
    waiting: list[str] = []

    def hear(call: str, subject: str) -> None:
        if call == "guests.await_reachable":
            waiting.append(subject)
        elif call == "hypervisor.machines" and waiting and (silence := next(silences, None)):
            raise silence

    installation.world.on_call = hear
    assert succeeded(installation.up(TWO_MACHINES))
    assert waiting == ["boss", "boss"]


def test_a_silent_guest_is_told_from_a_silent_host(installation: Installation) -> None:
    def mute(call: str, _subject: str) -> None:
        for machine in installation.world.machines.values():
            machine.console.clear()

    installation.world.on_call = mute
    installation.world.deaf.add("boss")
    operation = installation.up(TWO_MACHINES)
    assert operation.error is not None
    assert operation.error["kind"] == Kind.FAULT
    tries = [entry for entry in installation.store.journal(operation.id) if entry.key == "ready boss"]
    assert len(tries) == 1


def test_an_event_that_cannot_be_recorded_harms_nobody_who_delivers_it(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_event: object) -> None:
        raise OperationalError(Kind.FAULT, "database", "cannot be written: disk full")

    installation.up(TWO_MACHINES)
    installation.controller.start()
    with monkeypatch.context() as patch:
        patch.setattr(installation.store, "add_event", refuse)
        installation.world.crash_machine(machine_id(installation, "ops"))
    installation.controller.stop()


def test_an_upload_whose_import_is_resumed_is_kept(installation: Installation, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(b"disk")
    installation.controller.dispatcher.stop(0)  # killed before it began
    operation = installation.controller.image_import(upload, "foreign:latest", PERSON)
    installation.restart()
    installation.controller.start()
    try:
        assert installation.controller.wanted_uploads == {upload}
        assert succeeded(installation.ended(operation))
    finally:
        installation.controller.stop()
    assert not upload.exists()


def test_what_a_machine_does_is_told_with_its_system_even_when_that_has_gone(parallel: Installation) -> None:
    def told() -> list[tuple[str, str, str]]:
        events = parallel.store.events(limit=10_000)
        return [(e.kind, e.system, e.machine) for e in events if e.kind.startswith("machine.")]

    up = parallel.controller.up(bundle(TWO_MACHINES), UpOptions(), PERSON)
    assert succeeded(parallel.ended(up))
    parallel.controller.supervisor.start()
    try:
        parallel.world.crash_machine(machine_id(parallel, "ops"))
        wait_for(lambda: ("machine.crashed", "pair", "ops") in told())
        parallel.world.crash_machine(machine_id(parallel, "boss"))
        record = parallel.store.system("pair")
        assert record is not None
        parallel.store.delete_system(record.id)
        parallel.controller.supervisor.look()  # which reads the systems too
    finally:
        parallel.controller.supervisor.stop()
    assert ("machine.crashed", "pair", "boss") in told()
