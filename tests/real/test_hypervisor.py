"""Real domains: define, start, look, pause, end, console, foreign domains, and a libvirtd that dies."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest

from forkbed import lab as labs
from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import InstallationId, MachineId
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import Power
from forkbed.drivers.libvirt.hypervisor import LibvirtHypervisor
from forkbed.ports.hypervisor import HypervisorMachine, MachineEvent, MachineEventKind
from tests.real.bench_host import BRIDGE, SYSTEM_NAME, BenchHost
from tests.unit.drivers import samples
from tests.unit.drivers.test_domain_xml import GOLDEN

VALIDATE = libvirt.VIR_DOMAIN_DEFINE_VALIDATE
BOSS = samples.machine("boss", number=1)


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def seen(host: BenchHost, machine_id: MachineId = BOSS.id) -> HypervisorMachine:
    (found,) = [machine for machine in host.hypervisor.machines() if machine.machine_id == machine_id]
    return found


@pytest.fixture
def boss(bench_host: BenchHost) -> Iterator[BenchHost]:
    """The host with the machine `boss` defined, not running."""
    bench_host.define(BOSS)
    try:
        yield bench_host
    finally:
        bench_host.discard(BOSS)


@pytest.fixture
def running_boss(boss: BenchHost) -> BenchHost:
    boss.boot(BOSS)
    return boss


@contextlib.contextmanager
def watched(host: BenchHost) -> Iterator[queue.Queue[MachineEvent]]:
    events: queue.Queue[MachineEvent] = queue.Queue()
    end = host.hypervisor.watch(events.put)
    try:
        yield events
    finally:
        end()


def await_event(
    events: queue.Queue[MachineEvent], kind: MachineEventKind, timeout_s: float = 30
) -> MachineEvent:
    deadline = time.monotonic() + timeout_s
    while True:
        event = events.get(timeout=max(0.01, deadline - time.monotonic()))
        if event.kind is kind:
            return event


def test_definition(boss: BenchHost) -> None:
    machine = seen(boss)
    assert (machine.name, machine.system_id, machine.power) == ("boss", "sys1", Power.OFF)
    assert (machine.definition_digest, machine.running_digest, machine.boot_id) == ("d1", "", "")
    assert boss.hypervisor.define(boss.definition(BOSS)) is Effect.ALREADY
    assert boss.hypervisor.define(boss.definition(BOSS, digest="d2")) is Effect.CHANGED
    assert seen(boss).definition_digest == "d2"
    described = boss.hypervisor.description()
    assert described["acceleration"] == "tcg"
    assert described["machine_type"].startswith("pc-q35-")


@pytest.mark.parametrize("name", ["micro-tcg", "large-kvm"])
def test_libvirt_knows_all_that_we_write(boss: BenchHost, name: str) -> None:
    text = (GOLDEN / f"{name}.xml").read_text().replace('type="kvm"', 'type="qemu"')
    connection = libvirt.open(boss.hypervisor.uri)
    try:
        with pytest.raises(libvirt.libvirtError, match="XML document failed to validate"):
            connection.defineXMLFlags(text.replace("<devices>", "<unheard-of /><devices>"), VALIDATE)
        connection.defineXMLFlags(text, VALIDATE).undefine()
    finally:
        connection.close()


def test_a_machine_type_stays_with_its_machine(boss: BenchHost) -> None:
    domain = "fb-t0st-boss-ops.boss"
    newest = boss.hypervisor.description()["machine_type"]
    text = boss.lab.run(["virsh", "dumpxml", "--inactive", domain]).text
    boss.lab.run(["virsh", "define", "/dev/stdin"], input=text.replace(newest, "pc-q35-6.2").encode())
    boss.hypervisor.define(boss.definition(BOSS, digest="d2"))
    assert "pc-q35-6.2" in boss.lab.run(["virsh", "dumpxml", "--inactive", domain]).text


def test_life(boss: BenchHost) -> None:
    hypervisor = boss.hypervisor
    with watched(boss) as events:
        assert hypervisor.start(BOSS.id) is Effect.CHANGED
        assert hypervisor.start(BOSS.id) is Effect.ALREADY
        started = await_event(events, MachineEventKind.STARTED)
        assert started.machine_id == BOSS.id
        first = seen(boss)
        assert (first.power, first.running_digest) == (Power.RUNNING, "d1")
        assert first.boot_id
        assert hypervisor.pause(BOSS.id) is Effect.CHANGED
        assert hypervisor.pause(BOSS.id) is Effect.ALREADY
        assert seen(boss).power is Power.PAUSED
        assert seen(boss).boot_id == first.boot_id
        assert hypervisor.resume(BOSS.id) is Effect.CHANGED
        assert hypervisor.resume(BOSS.id) is Effect.ALREADY
        hypervisor.define(boss.definition(BOSS, digest="d2"))
        assert (seen(boss).definition_digest, seen(boss).running_digest) == ("d2", "d1")
        with pytest.raises(OperationalError) as failure:
            hypervisor.undefine(BOSS.id)
        assert failure.value.kind is Kind.CONFLICT
        assert hypervisor.force_off(BOSS.id) is Effect.CHANGED
        assert hypervisor.force_off(BOSS.id) is Effect.ALREADY
        await_event(events, MachineEventKind.STOPPED)
        assert (seen(boss).power, seen(boss).boot_id, seen(boss).running_digest) == (Power.OFF, "", "")
        hypervisor.start(BOSS.id)
        assert seen(boss).running_digest == "d2"
        assert seen(boss).boot_id != first.boot_id
        for call in (hypervisor.pause, hypervisor.resume):
            hypervisor.force_off(BOSS.id)
            with pytest.raises(OperationalError) as failure:
                call(BOSS.id)
            assert failure.value.kind is Kind.CONFLICT
            assert "boss-ops/boss" in failure.value.subject


def test_an_undefined_machine_leaves_nothing(boss: BenchHost) -> None:
    console = boss.lab.paths.state / "console" / f"{BOSS.id}.log"
    emulator_log = boss.lab.paths.root / "log-libvirt" / "qemu" / "fb-t0st-boss-ops.boss.log"
    boss.hypervisor.start(BOSS.id)
    assert console.exists()
    assert emulator_log.exists()
    boss.hypervisor.force_off(BOSS.id)
    assert boss.hypervisor.undefine(BOSS.id) is Effect.CHANGED
    assert boss.hypervisor.undefine(BOSS.id) is Effect.ALREADY
    assert boss.hypervisor.machines() == []
    assert not console.exists()
    assert not emulator_log.exists()
    with pytest.raises(OperationalError) as failure:
        boss.hypervisor.start(BOSS.id)
    assert failure.value.kind is Kind.NOT_FOUND


def test_a_start_that_fails_tells_what_qemu_and_the_console_said(boss: BenchHost) -> None:
    console = boss.lab.paths.state / "console" / f"{BOSS.id}.log"
    console.write_bytes(b"Kernel panic - not syncing: said before\r\n")
    volume = Path(boss.volumes.attachment(BOSS.volumes[0]).path)
    volume.write_bytes(b"no qcow2")
    with pytest.raises(OperationalError) as failure:
        boss.hypervisor.start(BOSS.id)
    assert failure.value.kind is Kind.FAULT
    assert failure.value.subject == "machine boss-ops/boss"
    details = "\n".join(failure.value.details)
    assert "qcow2" in failure.value.brief + details
    assert "console: Kernel panic - not syncing: said before" in details
    assert seen(boss).power is Power.OFF


def test_images_keep_their_owner_and_time(boss: BenchHost) -> None:
    image = Path(boss.image.path)
    before = image.stat()
    boss.hypervisor.start(BOSS.id)
    boss.hypervisor.force_off(BOSS.id)
    after = image.stat()
    assert (after.st_uid, after.st_mode, after.st_ctime_ns) == (
        before.st_uid,
        before.st_mode,
        before.st_ctime_ns,
    )


def test_machines_of_others_are_as_if_they_were_not_there(boss: BenchHost) -> None:
    lab = boss.lab
    strangers = {"somebodys": "", "fb-t0st-boss-ops.other": "", "fb-t0st2-boss-ops.boss": ""}
    template = (
        "<domain type='qemu'><name>{}</name><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>"
    )
    other = LibvirtHypervisor(boss.hypervisor_settings(InstallationId("0the")))
    try:
        for name in strangers:
            lab.run(["virsh", "define", "/dev/stdin"], input=template.format(name).encode())
        assert [machine.machine_id for machine in boss.hypervisor.machines()] == [BOSS.id]
        assert other.machines() == []
        with pytest.raises(OperationalError) as failure:
            other.start(BOSS.id)
        assert failure.value.kind is Kind.NOT_FOUND
        assert other.undefine(BOSS.id) is Effect.ALREADY
        assert seen(boss).definition_digest == "d1"
    finally:
        other.close()
        for name in strangers:
            lab.run(["virsh", "undefine", name], accept=None)


def test_two_systems_whose_names_join_to_the_same_stay_apart(boss: BenchHost) -> None:
    definition = boss.definition(BOSS)
    twin = replace(BOSS, id=MachineId("mach9"), uuid=BOSS.uuid[:-1] + "9")
    twin = replace(twin, spec=replace(twin.spec, name="ops-boss"))
    try:
        assert boss.hypervisor.define(replace(definition, machine=twin, system_name="boss")) is Effect.CHANGED
        assert seen(boss).definition_digest == "d1"
        assert seen(boss, twin.id).name == "ops-boss"
    finally:
        boss.hypervisor.undefine(twin.id)


def test_console(running_boss: BenchHost) -> None:
    hypervisor = running_boss.hypervisor
    with hypervisor.open_console(BOSS.id) as console:
        console.write(b"\necho sum-$((40 + 2))\n")
        assert b"sum-42" in read_console(console.read, b"sum-42")
        with hypervisor.open_console(BOSS.id) as second:
            wait_until(lambda: console.read(0.1) is None, "the first console's end")
            second.write(b"echo again-$((40 + 3))\n")
            assert b"again-43" in read_console(second.read, b"again-43")
            wait_until(lambda: b"again-43" in hypervisor.console_log(BOSS.id), "the console log")
            hypervisor.force_off(BOSS.id)
            wait_until(lambda: second.read(0.1) is None, "the console's end with the machine")
    assert len(hypervisor.console_log(BOSS.id, tail_bytes=10)) == 10
    before = hypervisor.console_log(BOSS.id)
    hypervisor.start(BOSS.id)
    hypervisor.force_off(BOSS.id)
    assert hypervisor.console_log(BOSS.id).startswith(before), "a new start must not lose what was written"
    with pytest.raises(OperationalError) as failure:
        hypervisor.open_console(BOSS.id)
    assert failure.value.kind is Kind.CONFLICT


def read_console(read: Callable[[float], bytes | None], wanted: bytes) -> bytes:
    output = b""
    deadline = time.monotonic() + 30
    while wanted not in output and time.monotonic() < deadline:
        output += read(0.5) or b""
    return output


def test_shut_down_also_when_paused(running_boss: BenchHost) -> None:
    hypervisor = running_boss.hypervisor
    with watched(running_boss) as events:
        # Before its agent is up the guest may miss the button; callers ask again.
        wait_until(lambda: agent_answers(running_boss), "the guest's agent")
        hypervisor.pause(BOSS.id)
        assert hypervisor.shut_down(BOSS.id) is Effect.CHANGED
        stopped = await_event(events, MachineEventKind.STOPPED)
    assert stopped.detail == "the guest shut down"
    assert seen(running_boss).power is Power.OFF
    assert hypervisor.shut_down(BOSS.id) is Effect.ALREADY


def agent_answers(host: BenchHost) -> bool:
    try:
        host.hypervisor.agent_command(BOSS.id, '{"execute": "guest-ping"}', 2)
    except OperationalError:
        return False
    return True


def test_a_reset_from_inside_is_another_boot(running_boss: BenchHost) -> None:
    before = seen(running_boss).boot_id
    with watched(running_boss) as events:
        with running_boss.hypervisor.open_console(BOSS.id) as console:
            console.write(b"\nreboot -f\n")
            read_console(console.read, b"reboot: Restarting")
        assert await_event(events, MachineEventKind.RESET).machine_id == BOSS.id
    token, resets = seen(running_boss).boot_id.split(".")
    assert [token, "0"] == before.split(".")
    assert resets == "1"


def test_a_reset_while_nobody_listened_is_found_later(running_boss: BenchHost) -> None:
    lab = running_boss.lab
    before = seen(running_boss).boot_id
    domain = "fb-t0st-boss-ops.boss"
    wait_until(lambda: 'kernel=""' not in lab.run(["virsh", "dumpxml", domain]).text, "the kernel's boot id")
    running_boss.hypervisor.close()
    lab.run(["virsh", "reset", domain])
    running_boss.reopen()
    with watched(running_boss) as events:
        assert await_event(events, MachineEventKind.RESET, 60).machine_id == BOSS.id
    assert seen(running_boss).boot_id != before


def test_a_libvirtd_that_dies_is_told_and_waited_for(boss: BenchHost) -> None:
    boss.hypervisor.start(BOSS.id)
    before = seen(boss)
    with watched(boss) as events:
        kill_libvirtd(boss.lab)
        lost = await_event(events, MachineEventKind.CONNECTION_LOST)
        assert lost.machine_id == ""
        back = await_event(events, MachineEventKind.CONNECTION_LOST)
        assert "back" in back.detail
        wait_until(lambda: answers(boss), "libvirt answers again")
        assert seen(boss) == before, "the machine ran on, in the same boot"
        boss.hypervisor.pause(BOSS.id)
        await_event(events, MachineEventKind.PAUSED)


def answers(host: BenchHost) -> bool:
    try:
        host.hypervisor.machines()
    except OperationalError as error:
        assert error.kind is Kind.UNREACHABLE
        return False
    return True


def kill_libvirtd(lab: labs.Lab) -> None:
    lab.run(["sh", "-c", f"kill -{int(signal.SIGKILL)} $(cat /run/libvirtd.pid)"])


def test_a_libvirtd_that_hangs_costs_no_more_than_the_limit(boss: BenchHost) -> None:
    boss.hypervisor.machines()
    boss.lab.run(["sh", "-c", "kill -STOP $(cat /run/libvirtd.pid)"])
    try:
        started = time.monotonic()
        with pytest.raises(OperationalError) as failure:
            boss.hypervisor.machines()
        assert failure.value.kind is Kind.UNREACHABLE
        assert time.monotonic() - started < 25
    finally:
        boss.lab.run(["sh", "-c", "kill -CONT $(cat /run/libvirtd.pid)"])
    wait_until(lambda: answers(boss), "libvirt answers again")


def test_a_bridge_that_is_gone_fails_the_start_in_plain_words(boss: BenchHost) -> None:
    definition = boss.definition(BOSS, digest="d2")
    nic = replace(definition.nics[0], bridge="fbt0stgone")
    boss.hypervisor.define(replace(definition, nics=(nic,)))
    with pytest.raises(OperationalError) as failure:
        boss.hypervisor.start(BOSS.id)
    assert failure.value.kind is Kind.FAULT
    assert "fbt0stgone" in failure.value.brief
    assert BRIDGE not in failure.value.brief
    assert SYSTEM_NAME in failure.value.subject


def test_qemu_killed_from_outside_is_a_crash(boss: BenchHost) -> None:
    boss.hypervisor.start(BOSS.id)
    with watched(boss) as events:
        pid = boss.lab.run(["cat", "/run/libvirt/qemu/fb-t0st-boss-ops.boss.pid"]).text.strip()
        boss.lab.run(["kill", "-9", pid])
        assert await_event(events, MachineEventKind.CRASHED).machine_id == BOSS.id
    wait_until(lambda: seen(boss).power is Power.CRASHED, "the crash is seen")
    assert boss.hypervisor.start(BOSS.id) is Effect.CHANGED


def test_a_machine_that_starts_and_stops_is_never_taken_for_absent(boss: BenchHost) -> None:
    done = threading.Event()
    seen_powers: set[Power] = set()

    def look() -> None:
        while not done.is_set():
            machine = seen(boss)  # fails if it is missing from the list
            assert (machine.power is Power.OFF) == (machine.boot_id == "")
            seen_powers.add(machine.power)

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        for _ in range(4):
            boss.hypervisor.start(BOSS.id)
            boss.hypervisor.force_off(BOSS.id)
        done.set()
        looking.result(30)
    assert seen_powers == {Power.OFF, Power.RUNNING}
