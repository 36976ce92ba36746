"""A real guest is told the time and given entropy, whatever it has for that."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from forkbed.ports.progress import Silence
from tests.real.bench_host import BenchHost
from tests.unit.drivers import samples

BOSS = samples.machine("boss", data=False)
ENTROPY = bytes(range(64))
DAY_S = 86_400.0


@pytest.fixture(scope="module")
def host(bench_host: BenchHost) -> Iterator[BenchHost]:
    """`boss` running."""
    try:
        bench_host.boot(BOSS)
        yield bench_host
    finally:
        bench_host.discard(BOSS)


def _shell(host: BenchHost, script: str) -> str:
    status, output, errors = host.run(BOSS, "/bin/sh", "-c", script)
    assert status == 0, errors
    return output.decode().strip()


def _ahead_s(host: BenchHost) -> float:
    """How far the guest's clock is ahead of ours."""
    before = time.time()
    shown = float(_shell(host, "date +%s"))
    return shown - (before + time.time()) / 2


def test_clock_and_randomness_are_renewed(host: BenchHost) -> None:
    told = host.guests.awaken(BOSS, time.time() + DAY_S, ENTROPY, 10.0)
    assert told == ""
    assert abs(_ahead_s(host) - DAY_S) < 5
    assert _shell(host, "wc -c </usr/lib/forkbed/awaken").isdigit()


def test_a_guest_without_its_tools_gets_what_is_possible(host: BenchHost) -> None:
    # the agent looks for hwclock once in its life
    _shell(host, "mv /usr/sbin/hwclock /usr/lib/forkbed/awaken /root; kill $(pidof qemu-ga)")
    try:
        told = host.guests.awaken(BOSS, time.time() - DAY_S, ENTROPY, 20.0)
        assert told.startswith("randomness: mixed in"), told
        assert abs(_ahead_s(host) + DAY_S) < 5
    finally:
        _shell(
            host,
            "cd /root; mv hwclock /usr/sbin/hwclock; mv awaken /usr/lib/forkbed/awaken; kill $(pidof qemu-ga)",
        )


def test_a_guest_that_stands_still_is_told(host: BenchHost) -> None:
    host.hypervisor.pause(BOSS.id)
    try:
        assert "as they were at the cut" in host.guests.awaken(BOSS, time.time(), ENTROPY, 1.0)
    finally:
        host.hypervisor.resume(BOSS.id)
    host.guests.await_reachable(host.address(BOSS), 60, Silence())
    assert host.guests.awaken(BOSS, time.time(), ENTROPY, 20.0) == ""
    assert abs(_ahead_s(host)) < 5
