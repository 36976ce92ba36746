"""The simulated host keeps every promise of the ports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from forkbed.base.ids import SystemId
from forkbed.core.systems.spec import ResolvedMachine
from forkbed.drivers.contents import FileContents
from forkbed.drivers.sidecars import FileSidecars
from forkbed.drivers.simulated.guests import SimulatedGuests
from forkbed.drivers.simulated.hypervisor import SimulatedHypervisor
from forkbed.drivers.simulated.images import SimulatedImages
from forkbed.drivers.simulated.storage import SimulatedContents, SimulatedNetworks, SimulatedSidecars
from forkbed.drivers.simulated.volumes import SimulatedVolumes
from forkbed.drivers.simulated.world import SimulatedWorld, VirtualClock
from forkbed.ports.guests import GuestAddress, SeedContent
from forkbed.ports.hypervisor import MachineDefinition, NicAttachment
from forkbed.ports.progress import Silence
from tests.contract import contracts
from tests.unit.drivers import samples


class SimulatedBench:
    """The simulated counterpart of `tests.real.bench_host.BenchHost`."""

    def __init__(self) -> None:
        self.world = SimulatedWorld(VirtualClock())
        self.sleep = self.world.clock.sleep
        self.hypervisor = SimulatedHypervisor(self.world)
        self.guests = SimulatedGuests(self.world)
        self.volumes = SimulatedVolumes(self.world)
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
        self.world.machines.clear()

    def address(self, machine: ResolvedMachine) -> GuestAddress:
        return GuestAddress(machine, (samples.network(),))


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
