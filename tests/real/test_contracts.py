"""The real drivers keep every promise of the ports: libvirt, qcow2 files, ssh, Linux networks, stored images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from forkbed.base.ids import SystemId
from forkbed.core.systems.spec import ResolvedMachine
from forkbed.drivers import liveness
from forkbed.drivers.images.library import HostImageLibrary
from forkbed.drivers.libvirt.cuts import LibvirtCuts
from forkbed.drivers.libvirt.guard import guard_process
from forkbed.ports.guests import SeedContent
from forkbed.ports.hypervisor import MachineDefinition
from tests.contract import contracts, cut_contracts
from tests.contract.cut_contracts import CutBench
from tests.real.bench_host import BenchHost
from tests.real.networks.world import World, isolated
from tests.unit.networks import builders


@pytest.fixture
def bench(bench_host: BenchHost) -> Iterator[BenchHost]:
    try:
        yield bench_host
    finally:
        bench_host.discard(contracts.BOSS)


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
def test_machines(bench: BenchHost, promise: Callable[[contracts.Bench], None]) -> None:
    promise(bench)


class CutHost(BenchHost):
    """A host whose machines can be cut."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cuts = LibvirtCuts(self.hypervisor, self.lab.paths.state)
        self.cut_volumes = self.volumes

    def definition(self, machine: ResolvedMachine, *, digest: str = "d1") -> MachineDefinition:
        """A fork's machine needs a system of another name, as its domain does."""
        definition = super().definition(machine, digest=digest)
        return replace(definition, system_name="fork") if machine.volumes[0].origin else definition

    def memory_token(self, machine: ResolvedMachine) -> str:
        return self._shell(
            machine, "cd /run; [ -e token ] || cat /proc/sys/kernel/random/uuid >token; cat token"
        )

    def guest_write(self, machine: ResolvedMachine, value: str) -> None:
        self._shell(machine, f"echo {value} >/srv/data/value; sync")

    def guest_read(self, machine: ResolvedMachine) -> str:
        return self._shell(machine, "cat /srv/data/value")

    def define_on_cut(self, machine: ResolvedMachine) -> None:
        self.guests.seed(machine, SeedContent("fork", {}, {}), "d1")
        for volume in machine.volumes:
            self.volumes.create_on_cut(SystemId("sys2"), machine, volume)
        self.hypervisor.define(self.definition(machine))

    def _shell(self, machine: ResolvedMachine, script: str) -> str:
        status, output, errors = self.run(machine, "/bin/sh", "-c", script)
        assert status == 0, errors
        return output.decode().strip()


@pytest.fixture(scope="module")
def cut_host(bench_host: BenchHost) -> Iterator[CutHost]:
    """The same host with cuts."""
    host = CutHost(bench_host.lab, bench_host.image, bench_host.volumes)
    state = bench_host.lab.paths.state
    yield host
    host.hypervisor.close()
    guard = guard_process(state / "pauses")
    if guard is not None:
        liveness.end(guard, grace_s=1)
    for name in ("memory", "pauses", "pipes"):
        shutil.rmtree(state / name, ignore_errors=True)


@pytest.mark.parametrize("promise", cut_contracts.MACHINE_PROMISES)
def test_cuts(cut_host: CutHost, promise: Callable[[CutBench], None]) -> None:
    try:
        promise(cut_host)
    finally:
        cut_host.discard(contracts.BOSS)


def test_volumes(bench: BenchHost) -> None:
    contracts.volumes_never_lose_data(bench.volumes)


@isolated
def test_networks(world: World) -> None:
    network = builders.network()
    member = builders.machine("boss", (network, "10.20.0.10"))
    contracts.networks_are_there_or_not(world.networks, network, member)


def test_images(tmp_path: Path) -> None:
    contracts.images_have_names_that_move(HostImageLibrary(tmp_path / "state", tmp_path / "cache"), tmp_path)
