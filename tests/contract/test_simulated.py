"""The simulated host keeps every promise of the ports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import NetworkId, SystemId
from forkbed.core.networks.intents import IntentKind
from forkbed.core.systems.spec import ResolvedMachine, UplinkKind
from forkbed.core.systems.view import Power
from forkbed.drivers.contents import FileContents
from forkbed.drivers.sidecars import FileSidecars
from forkbed.drivers.simulated.cuts import SimulatedCuts
from forkbed.drivers.simulated.guests import SimulatedGuests
from forkbed.drivers.simulated.hypervisor import SimulatedHypervisor
from forkbed.drivers.simulated.images import SimulatedImages
from forkbed.drivers.simulated.storage import SimulatedContents, SimulatedNetworks, SimulatedSidecars
from forkbed.drivers.simulated.volumes import SimulatedVolumes
from forkbed.drivers.simulated.world import Fault, SimulatedWorld, VirtualClock
from forkbed.ports.guests import GuestAddress, SeedContent
from forkbed.ports.hypervisor import MachineDefinition, NicAttachment
from forkbed.ports.progress import Silence
from tests.contract import contracts, cut_contracts
from tests.contract.contracts import BOSS
from tests.contract.cut_contracts import FIRST, CutBench, DiskBench, cut_machine
from tests.unit.drivers import samples


class SimulatedBench:
    """The simulated counterpart of `tests.real.bench_host.BenchHost`."""

    def __init__(self) -> None:
        self.world = SimulatedWorld(VirtualClock())
        self.sleep = self.world.clock.sleep
        self.hypervisor = SimulatedHypervisor(self.world)
        self.guests = SimulatedGuests(self.world)
        self.volumes = self.cut_volumes = SimulatedVolumes(self.world)
        self.cuts = SimulatedCuts(self.world)
        self._networks = SimulatedNetworks(self.world)
        self._networks.ensure(SystemId("sys1"), "boss-ops", samples.network(), [], "d1")

    def definition(self, machine: ResolvedMachine, *, digest: str = "d1") -> MachineDefinition:
        return MachineDefinition(
            system_id=SystemId("sys1"),
            system_name="boss-ops",
            revision=1,
            machine=machine,
            disks=tuple(self.volumes.attachment(volume) for volume in machine.volumes),
            nics=tuple(NicAttachment("bridge", nic.tap, nic.mac, 1442) for nic in machine.nics),
            digest=digest,
        )

    def define(self, machine: ResolvedMachine, *, digest: str = "d1") -> MachineDefinition:
        self.guests.seed(machine, SeedContent("boss-ops", {}, {}), digest)
        for volume in machine.volumes:
            self.volumes.create(SystemId("sys1"), machine, volume, None)
        definition = self.definition(machine, digest=digest)
        self.hypervisor.define(definition)
        return definition

    def boot(self, machine: ResolvedMachine, *, timeout_s: float = 90) -> str:
        self.define(machine)
        self.hypervisor.start(machine.id)
        return self.guests.await_reachable(self.address(machine), timeout_s, Silence())

    def discard(self, machine: ResolvedMachine) -> None:
        del self.world.machines[machine.id]
        for volume in machine.volumes:
            self.volumes.remove(volume.id)

    def address(self, machine: ResolvedMachine) -> GuestAddress:
        return GuestAddress(machine, (samples.network(),))

    def memory_token(self, machine: ResolvedMachine) -> str:
        return self.world.machines[machine.id].memory["boot"]

    def guest_write(self, machine: ResolvedMachine, value: str) -> None:
        self.world.write(machine.id, "vol-data", "value", value)

    def guest_read(self, machine: ResolvedMachine) -> str:
        return self.world.read(machine.id, "vol-data")["value"]

    def define_on_cut(self, machine: ResolvedMachine) -> None:
        for volume in machine.volumes:
            self.volumes.create_on_cut(SystemId("sys2"), machine, volume)
        self.hypervisor.define(self.definition(machine))


class SimulatedDisks:
    """Blocks of simulated layers."""

    def __init__(self) -> None:
        self._world = SimulatedWorld(VirtualClock())
        self.volumes = SimulatedVolumes(self._world)

    def write(self, path: str, block: int, value: int) -> None:
        self._world.disks.layers[path].blocks[str(block)] = str(value)

    def read(self, path: str, block: int) -> int:
        return int(self._world.disks.content(path).get(str(block), "0"))

    def files(self) -> set[str]:
        return set(self._world.disks.layers)

    def commit_as_guest_runs(self, above: str, top: str, into: str) -> None:
        self._world.disks.merge_down(top, into)


@pytest.mark.parametrize(
    "promise",
    [
        contracts.hypervisor_keeps_definitions,
        contracts.hypervisor_runs_a_machine,
        contracts.hypervisor_knows_only_its_own,
        contracts.guests_answer_once_they_are_up,
        contracts.guests_are_set_up_once,
    ],
)
def test_machines(promise: Callable[[contracts.Bench], None]) -> None:
    promise(SimulatedBench())


def test_volumes() -> None:
    contracts.volumes_never_lose_data(SimulatedBench().volumes)


def test_networks() -> None:
    world = SimulatedWorld(VirtualClock())
    contracts.networks_are_there_or_not(SimulatedNetworks(world), samples.network(), contracts.BOSS)


def test_images(tmp_path: Path) -> None:
    contracts.images_have_names_that_move(SimulatedImages(SimulatedWorld(VirtualClock())), tmp_path)


def test_sidecars(tmp_path: Path) -> None:
    contracts.sidecars_are_kept(SimulatedSidecars(SimulatedWorld(VirtualClock())))
    contracts.sidecars_are_kept(FileSidecars(tmp_path))


def test_contents(tmp_path: Path) -> None:
    contracts.contents_are_kept_by_hash(SimulatedContents(SimulatedWorld(VirtualClock())))
    contracts.contents_are_kept_by_hash(FileContents(tmp_path))


@pytest.mark.parametrize("promise", cut_contracts.VOLUME_PROMISES)
def test_cuts_of_volumes(promise: Callable[[DiskBench], None]) -> None:
    promise(SimulatedDisks())


@pytest.mark.parametrize("promise", cut_contracts.MACHINE_PROMISES)
def test_cuts_of_machines(promise: Callable[[CutBench], None]) -> None:
    promise(SimulatedBench())


def test_awakening() -> None:
    bench = SimulatedBench()
    cut_contracts.guests_awaken(bench, bench.guests)
    memory = bench.world.machines[BOSS.id].memory
    assert memory["clock"] == "2000000000.0"
    drawn = memory["entropy"]
    bench.guests.awaken(BOSS, 2_000_000_001.0, b"y" * 32, 10.0)
    assert memory["entropy"] != drawn


def test_recorder() -> None:
    world = SimulatedWorld(VirtualClock())
    networks = SimulatedNetworks(world)
    lan = samples.network()
    recorded = replace(lan, id=NetworkId("fork"), spec=replace(lan.spec, uplink=UplinkKind.RECORDED))
    for network in (lan, recorded):
        networks.ensure(SystemId("sys1"), "boss-ops", network, [], "d1")
        for port in (80, 443, 25):
            world.attempt(network.id, IntentKind.TCP, "10.20.0.10", "192.0.2.1", port)
    cut_contracts.recorders_tell_in_order(networks, recorded.id, lan.id)
    world.reboot_host()
    assert len(networks.intents(recorded.id, after=0, limit=10)) == 3
    networks.remove(recorded.id)
    assert networks.intents(recorded.id, after=0, limit=10) == []


@pytest.mark.parametrize("call", ["cuts.cut", "cuts.freeze", "cuts.disks", "cuts.memory"])
def test_a_cut_that_fails_leaves_its_machine_running(call: str) -> None:
    bench = SimulatedBench()
    bench.boot(BOSS)
    bench.world.faults.append(Fault(call, "", OperationalError(Kind.FAULT, "cut", "injected")))
    with pytest.raises(OperationalError, match="injected"):
        cut_machine(bench, FIRST)
    assert bench.world.machines[BOSS.id].power is Power.RUNNING
    assert list(bench.cuts.memories()) == []
    for volume in BOSS.volumes:
        in_use = bench.cuts.disks_in_use(BOSS.id)[bench.volumes.attachment(volume).serial]
        bench.volumes.finish_cut(volume.id, FIRST, in_use[0])
        assert bench.volumes.chain(volume.id) == in_use
    assert bool(bench.volumes.cuts()) == (call == "cuts.memory")


class _Died(BaseException):
    pass


@pytest.mark.parametrize("call", ["cuts.freeze", "cuts.disks", "cuts.memory"])
def test_recovery_lets_machines_go_on_that_a_dead_controller_froze(call: str) -> None:
    bench = SimulatedBench()
    bench.boot(BOSS)
    token = bench.memory_token(BOSS)

    def die(name: str, subject: str) -> None:
        if name == call:
            raise _Died

    bench.world.on_call = die
    with pytest.raises(_Died):
        cut_machine(bench, FIRST)
    bench.world.on_call = None
    frozen = bench.world.machines[BOSS.id].power is Power.PAUSED
    assert frozen == (call != "cuts.freeze")
    bench.cuts.recover()
    assert bench.world.machines[BOSS.id].power is Power.RUNNING
    assert bench.memory_token(BOSS) == token


def test_memory_that_does_not_fit_or_cannot_be_cut_is_refused_before_the_pause() -> None:
    bench = SimulatedBench()
    bench.boot(BOSS)
    calls: list[str] = []
    bench.world.on_call = lambda name, _: calls.append(name)
    bench.world.memory_room_bytes = BOSS.spec.memory_bytes - 1
    contracts.refused(Kind.CONFLICT, lambda: cut_machine(bench, FIRST))
    bench.world.memory_room_bytes = BOSS.spec.memory_bytes
    bench.world.unforkable["boss"] = "uses a host device (VFIO)"
    contracts.refused(Kind.CONFLICT, lambda: cut_machine(bench, FIRST))
    assert bench.cuts.refusal(BOSS.id) == "uses a host device (VFIO)"
    assert "cuts.freeze" not in calls
    cut_machine(bench, FIRST, memory=False)


def test_a_machine_does_not_start_on_a_layer_that_a_cut_keeps() -> None:
    bench = SimulatedBench()
    old = bench.define(BOSS)
    for volume in BOSS.volumes:
        bench.volumes.prepare_cut(volume.id, FIRST)
        bench.volumes.finish_cut(volume.id, FIRST, None)
    bench.hypervisor.define(old)
    contracts.refused(Kind.FAULT, lambda: bench.hypervisor.start(BOSS.id))
    bench.define(BOSS)
    bench.hypervisor.start(BOSS.id)
