"""The real drivers keep every promise of the ports: libvirt, qcow2 files, ssh, Linux networks, stored images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forkbed.drivers.images.library import HostImageLibrary
from tests.contract import contracts
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


def test_volumes(bench: BenchHost) -> None:
    contracts.volumes_never_lose_data(bench.volumes)


@isolated
def test_networks(world: World) -> None:
    network = builders.network()
    member = builders.machine("boss", (network, "10.20.0.10"))
    contracts.networks_are_there_or_not(world.networks, network, member)


def test_images(tmp_path: Path) -> None:
    contracts.images_have_names_that_move(HostImageLibrary(tmp_path / "state", tmp_path / "cache"), tmp_path)
