"""What every driver of a port must do, real or simulated: one function a promise, called with the driver.

`tests/contract/test_simulated.py` calls them with the simulated host, `tests/real/test_contracts.py` with libvirt,
qcow2 files, ssh and Linux networks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId, NetworkId, SystemId
from forkbed.core.systems.spec import (
    ProbeKind,
    ProbeSpec,
    ResolvedMachine,
    ResolvedNetwork,
    SetupSpec,
    SetupWhen,
)
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import Power
from forkbed.ports.contents import Contents
from forkbed.ports.guests import CommandRequest, GuestAddress, Guests
from forkbed.ports.hypervisor import Hypervisor, HypervisorMachine, MachineDefinition
from forkbed.ports.images import ImageLibrary
from forkbed.ports.networks import Networks
from forkbed.ports.progress import Silence
from forkbed.ports.sidecars import Sidecars
from forkbed.ports.volumes import Volumes
from tests.unit.drivers import samples

BOSS = samples.machine("boss", number=1)
ABSENT = MachineId("nobody")


class Bench(Protocol):
    """A host on which machines of `samples` can be defined and booted."""

    @property
    def hypervisor(self) -> Hypervisor: ...
    @property
    def guests(self) -> Guests: ...
    @property
    def volumes(self) -> Volumes: ...
    def define(self, machine: ResolvedMachine, *, digest: str = "d1") -> MachineDefinition: ...
    def definition(self, machine: ResolvedMachine, *, digest: str = "d1") -> MachineDefinition: ...
    def boot(self, machine: ResolvedMachine, *, timeout_s: float = 90) -> str: ...
    def discard(self, machine: ResolvedMachine) -> None: ...
    def address(self, machine: ResolvedMachine) -> GuestAddress: ...


def _seen(bench: Bench) -> HypervisorMachine:
    (found,) = [machine for machine in bench.hypervisor.machines() if machine.machine_id == BOSS.id]
    return found


def _await(condition: Callable[[], bool], bench: Bench, what: str) -> None:
    for _ in range(600):
        if condition():
            return
        bench_sleep(bench)
    raise AssertionError(f"it did not come about: {what}")


def bench_sleep(bench: Bench) -> None:
    """A moment of the bench's own time."""
    sleep = getattr(bench, "sleep", time.sleep)
    sleep(0.1)


def refused(kind: Kind, call: Callable[[], object]) -> None:
    """The call is refused with that kind of error."""
    with pytest.raises(OperationalError) as caught:
        call()
    assert caught.value.kind is kind, caught.value


def hypervisor_keeps_definitions(bench: Bench) -> None:
    bench.define(BOSS)
    seen = _seen(bench)
    assert (seen.name, seen.system_id, seen.power) == ("boss", "sys1", Power.OFF)
    assert (seen.definition_digest, seen.running_digest, seen.boot_id) == ("d1", "", "")
    assert bench.hypervisor.define(bench.definition(BOSS)) is Effect.ALREADY
    assert bench.hypervisor.define(bench.definition(BOSS, digest="d2")) is Effect.CHANGED
    assert _seen(bench).definition_digest == "d2"
    assert bench.hypervisor.machine(BOSS.id) == _seen(bench)
    assert bench.hypervisor.power(BOSS.id) is Power.OFF
    assert bench.hypervisor.undefine(BOSS.id) is Effect.CHANGED
    assert bench.hypervisor.undefine(BOSS.id) is Effect.ALREADY
    assert all(machine.machine_id != BOSS.id for machine in bench.hypervisor.machines())
    assert bench.hypervisor.machine(BOSS.id) is None
    assert bench.hypervisor.power(BOSS.id) is Power.ABSENT


def hypervisor_runs_a_machine(bench: Bench) -> None:
    hypervisor = bench.hypervisor
    bench.define(BOSS)
    assert hypervisor.start(BOSS.id) is Effect.CHANGED
    assert hypervisor.start(BOSS.id) is Effect.ALREADY
    first = _seen(bench)
    assert (first.power, first.running_digest) == (Power.RUNNING, "d1")
    assert first.boot_id
    hypervisor.define(bench.definition(BOSS, digest="d2"))
    assert (_seen(bench).definition_digest, _seen(bench).running_digest) == ("d2", "d1")
    assert hypervisor.pause(BOSS.id) is Effect.CHANGED
    assert hypervisor.pause(BOSS.id) is Effect.ALREADY
    assert (_seen(bench).power, _seen(bench).boot_id) == (Power.PAUSED, first.boot_id)
    assert hypervisor.power(BOSS.id) is Power.PAUSED
    assert hypervisor.resume(BOSS.id) is Effect.CHANGED
    assert hypervisor.resume(BOSS.id) is Effect.ALREADY
    assert hypervisor.power(BOSS.id) is Power.RUNNING
    refused(Kind.CONFLICT, lambda: hypervisor.undefine(BOSS.id))
    assert hypervisor.force_off(BOSS.id) is Effect.CHANGED
    assert hypervisor.force_off(BOSS.id) is Effect.ALREADY
    assert (_seen(bench).power, _seen(bench).boot_id) == (Power.OFF, "")
    refused(Kind.CONFLICT, lambda: hypervisor.pause(BOSS.id))
    hypervisor.start(BOSS.id)
    assert _seen(bench).running_digest == "d2"
    assert _seen(bench).boot_id not in ("", first.boot_id)


def hypervisor_knows_only_its_own(bench: Bench) -> None:
    for call in (
        bench.hypervisor.start,
        bench.hypervisor.pause,
        bench.hypervisor.shut_down,
        bench.hypervisor.open_console,
    ):
        refused(Kind.NOT_FOUND, lambda call=call: call(ABSENT))  # type: ignore[misc]
    assert bench.hypervisor.undefine(ABSENT) is Effect.ALREADY


def guests_answer_once_they_are_up(bench: Bench) -> None:
    address = bench.address(BOSS)
    tcp = ProbeSpec(ProbeKind.TCP, port=22)
    bench.define(BOSS)
    assert BOSS.id in bench.guests.seed_digests()
    assert not bench.guests.probe(address, tcp).good
    refused(Kind.UNREACHABLE, lambda: bench.guests.await_reachable(address, 0.3, Silence()))
    assert bench.boot(BOSS) == "ssh"
    _await(lambda: bench.guests.probe(address, tcp).good, bench, "the probe is good")
    with bench.guests.open_command(address, CommandRequest(("echo", "a b", "c"))) as command:
        command.close_input()
        output = b""
        while (received := command.read(10)) is not None:
            output += received[1] if received[0] == "stdout" else b""
        assert (output, command.exit_status()) == (b"a b c\n", 0)
    with bench.guests.open_command(address, CommandRequest(("false",))) as command:
        while command.read(10) is not None:
            pass
        assert command.exit_status() == 1
    bench.hypervisor.pause(BOSS.id)  # a paused guest is resumed, so that it can write what it holds in memory
    assert bench.hypervisor.shut_down(BOSS.id) is Effect.CHANGED
    _await(lambda: _seen(bench).power is Power.OFF, bench, "the guest shut down")
    assert bench.hypervisor.shut_down(BOSS.id) is Effect.ALREADY
    assert bench.hypervisor.console_log(BOSS.id)
    assert bench.guests.remove_seed(BOSS.id) is Effect.CHANGED
    assert bench.guests.remove_seed(BOSS.id) is Effect.ALREADY


def guests_are_set_up_once(bench: Bench) -> None:
    address = bench.address(BOSS)
    bench.boot(BOSS)
    once = SetupSpec("true")
    each_boot = SetupSpec("true", SetupWhen.BOOT)
    messages: list[str] = []

    class Heard(Silence):
        def tell(self, message: str, *, done: float | None = None) -> None:
            messages.append(message)

    bench.guests.run_setup(address, [once, each_boot], Heard())
    assert messages
    messages.clear()
    bench.guests.run_setup(address, [once, each_boot], Heard())
    assert not [message for message in messages if "true" in message]
    refused(Kind.FAULT, lambda: bench.guests.run_setup(address, [SetupSpec("false")], Heard()))


def volumes_never_lose_data(volumes: Volumes) -> None:
    system = SystemId("sys1")
    data = BOSS.volumes[1]
    assert volumes.create(system, BOSS, data, None) is Effect.CHANGED
    assert volumes.create(system, BOSS, data, None) is Effect.ALREADY
    larger, smaller = (replace(data, size_bytes=data.size_bytes * n // 2) for n in (4, 1))
    refused(Kind.CONFLICT, lambda: volumes.create(system, BOSS, larger, None))
    assert volumes.grow(larger) is Effect.CHANGED
    assert volumes.grow(larger) is Effect.ALREADY
    refused(Kind.UNSAFE, lambda: volumes.grow(smaller))
    (view,) = [view for view in volumes.volumes() if view.volume_id == data.id]
    assert (view.size_bytes, view.name, view.machine_name, view.system_id) == (
        larger.size_bytes,
        "data",
        "boss",
        system,
    )
    assert volumes.attachment(data).serial == "vol-data"
    assert volumes.remove(data.id) is Effect.CHANGED
    assert volumes.remove(data.id) is Effect.ALREADY
    assert all(view.volume_id != data.id for view in volumes.volumes())


def networks_are_there_or_not(networks: Networks, network: ResolvedNetwork, member: ResolvedMachine) -> None:
    system = SystemId("sys1")
    assert networks.networks() == []
    assert networks.ensure(system, "boss-ops", network, [member], "d1") is Effect.CHANGED
    (view,) = networks.networks()
    assert (view.network_id, view.system_id, view.digest, view.healthy) == (network.id, system, "d1", True)
    assert networks.ensure(system, "boss-ops", network, [member], "d1") is Effect.ALREADY
    networks.ensure(system, "boss-ops", network, [], "d2")
    assert networks.networks()[0].digest == "d2"
    assert networks.bridge_name(network)
    assert networks.remove(network.id) is Effect.CHANGED
    assert networks.remove(network.id) is Effect.ALREADY
    assert networks.remove(NetworkId("never")) is Effect.ALREADY
    assert networks.networks() == []


def sidecars_are_kept(sidecars: Sidecars) -> None:
    assert sidecars.read_all("systems") == {}
    sidecars.write("systems", "a1", {"name": "pair", "revision": 1})
    sidecars.write("systems", "a1", {"name": "pair", "revision": 2})
    sidecars.write("revisions", "a1.1", {"text": "ä"})
    assert sidecars.read_all("systems") == {"a1": {"name": "pair", "revision": 2}}
    assert sidecars.read_all("revisions") == {"a1.1": {"text": "ä"}}
    sidecars.remove("systems", "a1")
    sidecars.remove("systems", "a1")
    assert sidecars.read_all("systems") == {}


def contents_are_kept_by_hash(contents: Contents) -> None:
    first, second = contents.put(b"one"), contents.put(b"two")
    assert contents.put(b"one") == first != second
    assert contents.get(first) == b"one"
    contents.put_secret("v1", b"s3cret")
    assert contents.get_secret("v1") == b"s3cret"
    assert contents.keep_only(frozenset({first}), frozenset()) == 2
    assert contents.get(first) == b"one"
    refused(Kind.NOT_FOUND, lambda: contents.get(second))
    refused(Kind.NOT_FOUND, lambda: contents.get_secret("v1"))


def _partition_table() -> bytes:
    """A master boot record with one Linux partition from sector 8 on: a foreign file needs one to pass for a disk."""
    entry = bytes([0x80, 0, 0, 0, 0x83, 0, 0, 0]) + (8).to_bytes(4, "little") + (2040).to_bytes(4, "little")
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


def images_have_names_that_move(images: ImageLibrary, directory: Path) -> None:
    for number in (1, 2):
        disk = directory / f"disk{number}.raw"
        disk.write_bytes(_partition_table() + bytes([number]) * (1024**2 - 512))
        images.import_file(disk, f"boss:v{number}", "ada", float(number), Silence())
    first, second = images.resolve("boss:v1"), images.resolve("boss:v2")
    assert first.id != second.id
    assert images.resolve(first.id[:12]).id == first.id
    assert images.tag(first.id, "boss:production", "ada", 3.0).before == ""
    assert images.tag(second.id, "boss:production", "bob", 4.0).before == first.id
    assert images.resolve("boss:production").id == second.id
    moves = images.history("boss:production")
    assert [(move.image_id, move.account) for move in moves] == [(first.id, "ada"), (second.id, "bob")]
    refused(Kind.NOT_FOUND, lambda: images.history("boss:never"))
    refused(Kind.CONFLICT, lambda: images.remove(second.id, [second.id]))
    images.remove(second.id, [])
    refused(Kind.NOT_FOUND, lambda: images.resolve("boss:production"))
    refused(Kind.NOT_FOUND, lambda: images.resolve("bos:v1"))
    images.export(first.id, directory / "out.raw", "raw", Silence())
    assert (directory / "out.raw").exists()
