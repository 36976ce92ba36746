"""A guest that stands still is no guest that is gone: who connects to it waits until it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from forkbed.core.systems.spec import PublishSpec, UplinkKind
from forkbed.drivers.networks import namespaces
from forkbed.drivers.networks.links import ensure_sysctl
from tests.real.networks.world import HOST, Guest, World, isolated, listener, run, tcp_reaches, wait_until
from tests.unit.networks.builders import machine, network

# Ten times as fast as it is: whoever asks three times gives up at once, and what was known is soon forgotten.
HASTY = {"retrans_time_ms": "100", "base_reachable_time_ms": "100", "delay_first_probe_time": "1"}
STILL_S = 4.0
DEAF = """
table netdev still {
  chain deaf {
    type filter hook ingress device "eth0" priority 0; policy drop;
  }
}
"""


def make_hasty() -> None:
    for key, value in HASTY.items():
        assert ensure_sysctl(f"ipv4/neigh/eth0/{key}", value)


@contextmanager
def standing_still(guest: Guest) -> Iterator[None]:
    """It hears nothing and answers nothing, as while a cut is made."""
    rules = Path("/run/deaf.nft")
    rules.write_text(DEAF)
    run(f"ip netns exec {guest.name} nft -f {rules}")
    yield
    run(f"ip netns exec {guest.name} nft delete table netdev still")


@isolated
@pytest.mark.parametrize("known", [False, True])
def test_clients_of_a_guest_that_stands_still_wait_for_it(world: World, known: bool) -> None:
    net = network(uplink=UplinkKind.NAT, transit="198.19.0.0/31")
    member = machine("a", (net, "10.20.0.10"), publish=(PublishSpec(8080, 80),))
    world.ensure(net, member)
    [guest] = world.plug(net, member)
    guest.route()
    namespaces.run_inside(Path(world.networks.namespace(net)), make_hasty)
    with listener(guest.path, 80) as web, ThreadPoolExecutor(1) as pool:
        if known:
            assert tcp_reaches(HOST, "127.0.0.1", 8080, web)[0]
        with standing_still(guest):
            end = time.monotonic() + STILL_S
            client = pool.submit(tcp_reaches, HOST, "127.0.0.1", 8080, web, 30.0)
            wait_until(lambda: client.done() or time.monotonic() > end, "the end of the stand-still")
            assert not client.done(), "it was refused"
        assert client.result()[0]
