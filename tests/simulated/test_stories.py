"""What happens in the life of a system, on the simulated host: changes, failures, cancellations, reboots."""

from __future__ import annotations

from itertools import pairwise

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.operations.records import OperationStatus, Requester
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.core.systems.view import Power
from forkbed.drivers.simulated.world import Fault
from forkbed.engine.requests import PowerAction, Request, UpOptions
from forkbed.ports.guests import CommandRequest
from tests.simulated.installation import (
    PATIENT,
    PERSON,
    TWO_MACHINES,
    Installation,
    bundle,
    succeeded,
    wait_for,
)


def test_up_brings_everything_up_and_is_idempotent(installation: Installation) -> None:
    assert succeeded(installation.up(TWO_MACHINES))
    detail = installation.controller.system("pair")
    assert detail.summary.state == "up"
    assert [machine.ready for machine in detail.machines] == [True, True]
    again = installation.up(TWO_MACHINES)
    assert succeeded(again)
    assert installation.store.journal(again.id) == []
    assert installation.controller.system("pair").summary.revision == 1


def test_a_changed_manifest_changes_only_what_differs(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    boots = installation.world.boots
    changed = TWO_MACHINES.replace('publish: ["8080:80"]', 'publish: ["8081:80"]')
    operation = installation.up(changed)
    assert [entry.key for entry in installation.store.journal(operation.id)] == ["network control"]
    assert installation.world.boots == boots
    history = installation.controller.history("pair")
    assert [revision.number for revision in history] == [1, 2]
    assert "publish" in history[1].changes[0]


def test_what_needs_a_restart_waits_for_it(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    grown = TWO_MACHINES.replace("image: micro\n    after", "image: micro\n    memory: 1GiB\n    after")
    assert succeeded(installation.up(grown))
    boss = installation.controller.system("pair").machines[1]
    assert boss.restart_pending
    assert succeeded(installation.up(grown, UpOptions(restart=True)))
    boss = installation.controller.system("pair").machines[1]
    assert not boss.restart_pending
    assert boss.ready


def test_data_is_destroyed_only_by_name(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    without = TWO_MACHINES.replace("    volumes: {data: {size: 1GiB}}\n", "")
    with pytest.raises(OperationalError) as caught:
        installation.up(without)
    assert caught.value.kind is Kind.UNSAFE
    assert "ops/data" in str(caught.value)
    assert len(installation.world.volumes) == 3
    with pytest.raises(OperationalError, match="no such machine"):
        installation.up(without, UpOptions(destroy=frozenset({"ops/data", "nobody"})))
    assert succeeded(installation.up(without, UpOptions(destroy=frozenset({"ops/data"}))))
    assert {volume.name for volume in installation.world.volumes.values()} == {"root"}
    assert installation.running() == {"ops", "boss"}


def test_another_image_makes_a_new_root_volume(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    other = TWO_MACHINES.replace("image: micro\n    after", "image: debian-12\n    after")
    before = set(installation.world.volumes)
    assert succeeded(installation.up(other, UpOptions(destroy=frozenset({"boss"}))))
    assert len(set(installation.world.volumes) - before) == 1
    assert len(installation.world.volumes) == 3
    assert installation.controller.system("pair").summary.state == "up"


def test_plan_says_what_up_does(installation: Installation) -> None:
    plan = installation.controller.plan(bundle(TWO_MACHINES), UpOptions())
    assert plan.is_new_revision
    operation = installation.up(TWO_MACHINES)
    done = [entry.key for entry in installation.store.journal(operation.id)]
    # what comes of a start, readiness, shows only once the machine runs
    assert sorted(plan.steps) == sorted(key for key in done if not key.startswith("ready "))


def test_a_manifest_with_errors_changes_nothing(installation: Installation) -> None:
    wrong = TWO_MACHINES.replace("image: micro\n    after", "image: mikro\n    after")
    with pytest.raises(OperationalError) as caught:
        installation.up(wrong)
    assert caught.value.kind is Kind.INVALID
    assert any("system.yaml:12:12" in line and "micro" in line for line in caught.value.details)
    assert installation.store.systems() == []


def test_a_host_port_belongs_to_one_system(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    with pytest.raises(OperationalError, match="problem") as caught:
        installation.up(TWO_MACHINES.replace("system: pair", "system: other"))
    assert "pair/boss" in caught.value.details[0]


def test_a_failed_step_tells_the_tools_words_and_holds_back_dependents(installation: Installation) -> None:
    error = OperationalError(Kind.FAULT, "machine ops", "QEMU did not start", details=("no such file",))
    installation.world.faults.append(Fault("hypervisor.start", "ops", error))
    operation = installation.up(TWO_MACHINES)
    assert operation.status is OperationStatus.FAILED
    assert operation.error is not None
    assert operation.error["brief"] == "QEMU did not start"
    assert "no such file" in str(operation.error["details"])
    assert installation.running() == set()
    assert installation.controller.system("pair").summary.state == "failed"
    assert succeeded(installation.up(TWO_MACHINES))


def test_a_failing_setup_command_fails_the_operation(installation: Installation) -> None:
    operation = installation.up(TWO_MACHINES.replace("touch /ready", "false"))
    assert operation.status is OperationStatus.FAILED
    assert "setup command" in str(operation.error)


def test_a_host_that_does_not_answer_for_a_while_is_waited_for(installation: Installation) -> None:
    silent = OperationalError(Kind.UNREACHABLE, "libvirt", "does not answer")
    installation.world.faults += [
        Fault("hypervisor.machines", "", silent, times=3),
        Fault("hypervisor.start", "boss", silent, times=2),
    ]
    with pytest.raises(OperationalError):
        installation.up(TWO_MACHINES)  # acceptance looks at the host first, and nothing was begun
    installation.world.faults[0].times = 0
    operation = installation.up(TWO_MACHINES)
    assert succeeded(operation)
    boss = [e.status for e in installation.store.journal(operation.id) if e.key == "start boss"]
    assert boss == ["interrupted", "interrupted", "changed"]


def test_a_host_that_never_answers_fails_the_operation(installation: Installation) -> None:
    silent = OperationalError(Kind.UNREACHABLE, "libvirt", "does not answer")
    installation.world.faults.append(Fault("hypervisor.start", "boss", silent, times=100_000))
    operation = installation.up(TWO_MACHINES)
    assert operation.status is OperationStatus.FAILED


def test_a_machine_that_dies_while_booting_is_told_with_its_console(installation: Installation) -> None:
    def die(call: str, subject: str) -> None:
        if (call, subject) == ("guests.probe", "ops"):
            machines = installation.world.machines.values()
            ops = next(m for m in machines if m.definition.machine.name == "ops")
            installation.world.power_off(ops)

    installation.world.on_call = die
    operation = installation.up(TWO_MACHINES)
    assert operation.status is OperationStatus.FAILED
    assert "stopped by itself" in str(operation.error)
    assert "boot 1 of ops" in str(operation.error)


def test_down_keeps_data_and_delete_removes_it(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    assert succeeded(installation.down("pair"))
    assert installation.running() == set()
    assert len(installation.world.volumes) == 3
    assert installation.world.networks == {}
    assert installation.controller.system("pair").summary.state == "down"
    assert succeeded(installation.down("pair", delete=True))
    assert not installation.world.volumes
    assert not installation.world.machines
    assert installation.controller.systems() == []
    assert installation.host.sidecars.read_all("revisions") == {}


def test_power_actions(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    assert succeeded(installation.power("pair", PowerAction.PAUSE, "boss"))
    assert installation.controller.system("pair").machines[1].power == Power.PAUSED
    assert succeeded(installation.power("pair", PowerAction.RESUME, "boss"))
    assert succeeded(installation.power("pair", PowerAction.STOP, "boss"))
    assert installation.running() == {"ops"}
    with pytest.raises(OperationalError, match="cannot pause"):
        installation.power("pair", PowerAction.PAUSE, "boss")
    with pytest.raises(OperationalError, match="not declared"):
        installation.power("pair", PowerAction.START, "bosss")
    assert succeeded(installation.power("pair", PowerAction.START, "boss"))
    boots = installation.world.boots
    assert succeeded(installation.power("pair", PowerAction.RESTART, "ops"))
    assert installation.world.boots == boots + 1
    installation.world.stubborn.add("ops")
    assert succeeded(installation.power("pair", PowerAction.STOP, "ops"))
    assert installation.running() == {"boss"}


def test_setup_runs_once_in_the_life_of_a_root_volume(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    installation.power("pair", PowerAction.RESTART)
    boss = next(m for m in installation.world.machines.values() if m.definition.machine.name == "boss")
    assert bytes(boss.console).count(b"+ touch /ready") == 1


def test_two_ups_at_once_the_second_is_refused(parallel: Installation) -> None:
    parallel.world.deaf.add("ops")
    first = parallel.controller.up(bundle(PATIENT), UpOptions(), PERSON)
    with pytest.raises(OperationalError) as caught:
        parallel.controller.up(bundle(PATIENT), UpOptions(), PERSON)
    assert caught.value.kind is Kind.BUSY
    assert first.id in str(caught.value)


def test_the_same_request_twice_is_one_operation(parallel: Installation) -> None:
    parallel.world.deaf.add("ops")
    request = Request(Requester(1000, "ada", "up"), idempotency_key="k1")
    first = parallel.controller.up(bundle(PATIENT), UpOptions(), request)
    assert parallel.controller.up(bundle(PATIENT), UpOptions(), request).id == first.id
    other = Request(Requester(1001, "bob", "up"), idempotency_key="k1")
    with pytest.raises(OperationalError):
        parallel.controller.up(bundle(PATIENT), UpOptions(), other)


def test_if_match_guards_against_somebody_elses_change(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    stale = Request(Requester(1000, "ada", "up"), if_match=7)
    with pytest.raises(OperationalError) as caught:
        installation.controller.down("pair", delete=False, request=stale)
    assert caught.value.kind is Kind.CONFLICT


def test_down_during_up_cancels_it(parallel: Installation) -> None:
    parallel.world.deaf.add("ops")
    up = parallel.controller.up(bundle(PATIENT), UpOptions(), PERSON)
    wait_for(lambda: parallel.running() == {"ops"})
    down = parallel.ended(parallel.controller.down("pair", delete=False, request=PERSON))
    assert succeeded(down)
    found = parallel.store.operation(up.id)
    assert found is not None
    assert found.status is OperationStatus.CANCELLED
    assert parallel.running() == set()
    assert parallel.controller.supervisor.look() == 0


def test_a_cancelled_up_is_not_continued_behind_ones_back(parallel: Installation) -> None:
    parallel.world.deaf.add("ops")
    up = parallel.controller.up(bundle(PATIENT), UpOptions(), PERSON)
    wait_for(lambda: parallel.running() == {"ops"})
    parallel.controller.cancel(up.id, PERSON)
    assert parallel.controller.dispatcher.wait_idle(30)
    parallel.world.deaf.clear()
    parallel.controller.supervisor.look()
    assert parallel.controller.dispatcher.wait_idle(30)
    assert parallel.running() == {"ops"}, "what ran goes on, what did not is not started"
    assert succeeded(parallel.up(PATIENT))
    assert parallel.running() == {"ops", "boss"}


def test_after_a_reboot_machines_come_back_in_order(installation: Installation) -> None:
    text = TWO_MACHINES + "  idle: {image: micro, restart: never}\n"
    installation.up(text)
    installation.world.reboot_host()
    assert installation.running() == set()
    assert installation.controller.supervisor.look() == 1
    assert installation.controller.dispatcher.wait_idle(30)
    assert installation.running() == {"ops", "boss"}, "restart: never stays down"
    operation = installation.store.operations(limit=1)[0]
    starts = [e.key for e in installation.store.journal(operation.id) if e.verb in ("start", "network")]
    assert starts == ["network control", "start ops", "start boss"]
    assert installation.controller.supervisor.look() == 0


def test_a_crashed_machine_is_started_again_less_and_less_often(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    ops = next(i for i, m in installation.world.machines.items() if m.definition.machine.name == "ops")
    tries = []
    for _ in range(200):
        if installation.world.machines[ops].power is Power.RUNNING:
            installation.world.crash_machine(ops)
        if installation.controller.supervisor.look():
            tries.append(installation.world.clock.now())
        assert installation.controller.dispatcher.wait_idle(30)
        installation.world.clock.sleep(5)
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert len(gaps) > 5
    assert gaps[0] < 15 < 55 < gaps[-1]


def test_a_lost_network_is_made_again(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    installation.world.networks.clear()
    assert installation.controller.supervisor.look() == 1
    assert installation.controller.dispatcher.wait_idle(30)
    assert len(installation.world.networks) == 1
    assert installation.store.operations(limit=1)[0].requester.command == "network control is missing"


def test_a_guest_that_reboots_by_itself_is_waited_for_again(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    ops = next(i for i, m in installation.world.machines.items() if m.definition.machine.name == "ops")
    installation.world.reset_machine(ops)
    assert installation.controller.system("pair").summary.state == "degraded"
    assert installation.controller.supervisor.look() == 1
    assert installation.controller.dispatcher.wait_idle(30)
    assert installation.controller.system("pair").summary.state == "up"


def test_garbage_is_what_nothing_declares(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    assert installation.controller.garbage(dry_run=True, request=PERSON).items == ()
    record = installation.store.system("pair")
    assert record is not None
    installation.store.delete_system(record.id)
    # the sidecars are still there: this is a lost database, not garbage
    assert installation.controller.garbage(dry_run=True, request=PERSON).items == ()
    installation.host.sidecars.remove("systems", record.id)
    found = installation.controller.garbage(dry_run=True, request=PERSON).items
    assert {item.kind for item in found} == {"machine", "volume", "network"}
    report = installation.controller.garbage(dry_run=False, request=PERSON)
    assert report.operation is not None
    assert succeeded(installation.ended(report.operation))
    assert not installation.world.machines
    assert not installation.world.volumes
    assert not installation.world.networks


def test_show_tells_the_trail_from_the_command_to_the_step(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    trail = [line.text for line in installation.controller.system("pair").trail]
    assert trail[0] == "ada (uid 1000): forkbed up system.yaml"
    assert any(line.startswith("start boss on sim: changed") for line in trail)
    assert trail[-1] == "up succeeded"


def test_events_can_be_followed_from_where_one_stopped(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    events = installation.controller.events(after=0, system="pair", limit=1000)
    kinds = [event.kind for event in events]
    assert kinds[0] == "operation.started"
    assert kinds[-1] == "operation.succeeded"
    middle = events[3].sequence
    assert installation.controller.events(after=middle, system="pair", limit=1000) == events[4:]


def test_operation_progress_wakes_those_who_wait(parallel: Installation) -> None:
    parallel.world.deaf.add("ops")
    operation = parallel.controller.up(bundle(PATIENT), UpOptions(), PERSON)
    version, detail = parallel.controller.wait_change(operation.id, -1, 5)
    for _ in range(1000):
        version, detail = parallel.controller.wait_change(operation.id, version, 5)
        if any(entry.message for entry in detail.journal):
            break
    assert any("tcp :22" in entry.message for entry in detail.journal)


def test_images_in_use_stay(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    with pytest.raises(OperationalError, match="in use"):
        installation.controller.image_remove("micro", PERSON)
    installation.controller.image_remove("debian-12", PERSON)
    assert [image.names for image in installation.controller.images()] == [("micro:latest",)]


def test_many_systems_at_once(parallel: Installation) -> None:
    texts = [
        TWO_MACHINES.replace("system: pair", f"system: pair-{n}").replace("8080", str(9000 + n))
        for n in range(12)
    ]
    operations = [parallel.controller.up(bundle(text), UpOptions(), PERSON) for text in texts]
    for operation in operations:
        assert succeeded(parallel.ended(operation))
    records = parallel.store.systems()
    transits = {network.transit for record in records for network in record.resolved.networks}
    taps = {nic.tap for record in records for m in record.resolved.machines for nic in m.nics}
    assert (len(transits), len(taps)) == (12, 24)


def test_a_refused_up_leaves_no_revision_behind(parallel: Installation) -> None:
    parallel.world.deaf.add("ops")
    parallel.controller.up(bundle(PATIENT), UpOptions(), PERSON)
    changed = PATIENT.replace("8080:80", "8081:80")
    with pytest.raises(OperationalError):
        parallel.controller.up(bundle(changed), UpOptions(), PERSON)
    (system_id,) = parallel.host.sidecars.read_all("systems")
    assert parallel.host.sidecars.read_all("systems")[system_id]["revision"] == 1
    assert set(parallel.host.sidecars.read_all("revisions")) == {f"{system_id}.1"}


def test_a_person_goes_before_a_repair_which_is_taken_up_again(parallel: Installation) -> None:
    text = PATIENT.replace("after: [ops]", "restart: always")
    parallel.ended(parallel.controller.up(bundle(text), UpOptions(), PERSON))
    parallel.world.deaf.add("ops")
    ops = next(i for i, m in parallel.world.machines.items() if m.definition.machine.name == "ops")
    parallel.world.crash_machine(ops)
    assert parallel.controller.supervisor.look() == 1
    wait_for(lambda: parallel.running() == {"ops", "boss"})
    parallel.world.crash_machine(ops)
    restart = parallel.controller.power("pair", ("boss",), PowerAction.RESTART, force=False, request=PERSON)
    assert succeeded(parallel.ended(restart))
    parallel.world.deaf.clear()
    for _ in range(100):
        parallel.world.clock.sleep(60)
        parallel.controller.supervisor.look()
        assert parallel.controller.dispatcher.wait_idle(30)
    assert parallel.running() == {"ops", "boss"}


def test_a_paused_machine_is_said_to_be_paused(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    installation.power("pair", PowerAction.PAUSE, "boss")
    with pytest.raises(OperationalError, match="paused") as caught:
        installation.controller.open_command("pair", "boss", CommandRequest(("true",)))
    assert "forkbed resume pair/boss" in caught.value.remedy


SECRETIVE = TWO_MACHINES.replace(
    "  boss:\n", "  boss:\n    files: [{path: /a, source: a}]\n    secrets: [{path: /k, source: k}]\n"
)


def test_secrets_and_files_go_with_their_system(installation: Installation) -> None:
    manifest = ManifestBundle("system.yaml", SECRETIVE, {"a": b"text"}, {"k": b"s3cret"})
    assert succeeded(installation.ended(installation.controller.up(manifest, UpOptions(), PERSON)))
    assert b"s3cret" in installation.world.secrets.values()
    installation.up(TWO_MACHINES, UpOptions(restart=True))
    assert b"s3cret" in installation.world.secrets.values(), "an earlier revision still names it"
    installation.down("pair", delete=True)
    assert b"s3cret" not in installation.world.secrets.values()
    assert installation.world.contents == {}


def test_a_lost_database_is_not_garbage(installation: Installation) -> None:
    manifest = ManifestBundle("system.yaml", SECRETIVE, {"a": b"text"}, {"k": b"s3cret"})
    installation.ended(installation.controller.up(manifest, UpOptions(), PERSON))
    record = installation.store.system("pair")
    assert record is not None
    installation.store.delete_system(record.id)
    for machine_id in list(installation.world.machines):
        installation.world.power_off(installation.world.machines[machine_id])
        del installation.world.machines[machine_id]  # only seeds, disks and sidecars are left
    report = installation.controller.garbage(dry_run=False, request=PERSON)
    assert report.items == ()
    assert installation.world.seeds
    assert b"s3cret" in installation.world.secrets.values()


def test_a_guest_that_is_still_booting_is_asked_to_shut_down_again(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    installation.world.stubborn.add("boss")
    asked: list[float] = []

    def hear(call: str, subject: str) -> None:
        if (call, subject) == ("hypervisor.shut_down", "boss"):
            asked.append(installation.world.clock.now())
            if len(asked) == 3:
                installation.world.stubborn.clear()

    installation.world.on_call = hear
    assert succeeded(installation.power("pair", PowerAction.STOP, "boss"))
    assert len(asked) == 3
    assert asked[-1] - asked[0] < 15


def test_checks_are_asked_when_all_is_up_and_fail_the_operation(installation: Installation) -> None:
    text = TWO_MACHINES.replace("    after: [ops]\n", "    after: [ops]\n    checks: [{exec: check-it}]\n")
    operation = installation.up(text)
    assert succeeded(operation)
    assert installation.store.journal(operation.id)[-1].key == "check boss"
    installation.world.bad_probes.add("check-it")
    operation = installation.up(text)
    assert operation.status is OperationStatus.FAILED
    assert "fails its checks" in str(operation.error)
    assert installation.running() == {"ops", "boss"}, "a failed check stops nothing"


def test_a_guest_that_could_not_take_its_seed_is_not_ready(installation: Installation) -> None:
    installation.world.seed_failures["boss"] = "vol-data cannot be mounted on /srv"
    operation = installation.up(TWO_MACHINES)
    assert operation.status is OperationStatus.FAILED
    assert "vol-data cannot be mounted on /srv" in str(operation.error)


def test_plan_says_which_machines_still_run_as_before(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    grown = TWO_MACHINES.replace("image: micro\n    after", "image: micro\n    memory: 1GiB\n    after")
    installation.up(grown)
    plan = installation.controller.plan(bundle(grown), UpOptions())
    assert (plan.changes[-1].kind, plan.pending_restarts) == ("keep", ("boss",))
    assert installation.controller.plan(bundle(grown), UpOptions(restart=True)).pending_restarts == ()


def test_a_change_that_is_taken_back_needs_no_restart(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    grown = TWO_MACHINES.replace("image: micro\n    after", "image: micro\n    memory: 1GiB\n    after")
    assert installation.controller.plan(bundle(grown), UpOptions()).changes[-1].needs == "restart"
    installation.up(grown)
    for restart in (False, True):
        plan = installation.controller.plan(bundle(TWO_MACHINES), UpOptions(restart=restart))
        assert (plan.changes[-1].kind, plan.changes[-1].needs) == ("change", ""), (
            "boss runs with that already"
        )
        assert plan.pending_restarts == ()
    installation.power("pair", PowerAction.STOP)
    plan = installation.controller.plan(
        bundle(TWO_MACHINES.replace("image: micro", "image: micro\n    cpus: 3")), UpOptions()
    )
    assert [change.needs for change in plan.changes if change.kind == "change"] == ["", ""], (
        "they start with it"
    )


def test_a_subnet_needs_a_restart_of_what_runs_on_it(installation: Installation) -> None:
    installation.up(TWO_MACHINES)
    moved = TWO_MACHINES.replace("10.20.0.0/24", "10.21.0.0/24")
    network, *_ = installation.controller.plan(bundle(moved), UpOptions()).changes
    assert (network.subject, network.needs) == ("network control", "restart")
