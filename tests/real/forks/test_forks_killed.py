"""Whatever of ours is killed while the system is cut: it runs on unharmed, and the fork is finished or gone.

The steps in between are killed one by one against the simulated host (`tests/simulated`), and at every point of a cut
against libvirt (`tests/real/test_cuts.py`); here whole installations are.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.real.forks.original import ADDRESS, NAME, STATE, Site

FORK = "half"
HALF_MADE = ["cut trio: begun", "cut trio: done"]
GOES_ON = [
    "keep fork-cut: ended",
    "restore a: begun",
    "restore a: done",
    "awaken a: done",
    "remove-memory fork-cut: begun",
]
PIDS = {
    "serve": "cut -d: -f1 /run/forkbed/api.pid",
    "guard": f"cut -d: -f1 {STATE}/pauses/guard.pid",
    "serve and guard": f"cut -d: -f1 /run/forkbed/api.pid {STATE}/pauses/guard.pid",
    "libvirtd": "pidof libvirtd",
    "helpers of networks": "cut -d: -f1 /run/forkbed/networks/*/*.pid",
}


def finished_or_gone(site: Site, client: subprocess.Popen[bytes]) -> bool:
    """Whether the fork came to be; if it did not, nothing of it is there."""
    finished = client.wait(150) == 0
    site.await_idle()
    if finished:
        site.assert_goes_on(FORK)
        return True
    assert site.systems() == {NAME}, site.said()
    assert site.snapshot_names() == []
    return False


@pytest.mark.parametrize("boundary", HALF_MADE)
def test_serve_dies_before_the_cut_is_kept(site: Site, boundary: str) -> None:
    namespace, volumes = site.namespace(NAME), len(site.volume_files())
    site.kill_serve()
    site.serve(kill_at=boundary)
    client = site.start("fork", NAME, FORK)
    site.await_that(lambda: not site.serves(), f"the server dies at `{boundary}`")
    site.assert_answers_soon(namespace)
    site.serve()
    assert not finished_or_gone(site, client)
    assert "ask for it again" in site.said()
    assert len(site.volume_files()) <= volumes + len(ADDRESS) * 2, "a layer more for each disk that was cut"


def test_serve_dies_again_and_again_once_the_cut_is_kept(site: Site) -> None:
    namespace = site.namespace(NAME)
    site.kill_serve()
    site.serve(kill_at=GOES_ON[0])
    client = site.start("fork", NAME, FORK)
    for boundary in [*GOES_ON[1:], ""]:
        # What was done by then is not done again, so a boundary may never come.
        site.await_that(lambda: client.poll() is not None or not site.serves(), "the server dies")
        if client.poll() is not None:
            break
        site.assert_answers_soon(namespace)
        site.serve(kill_at=boundary)
    assert finished_or_gone(site, client)


@pytest.mark.parametrize("victim", PIDS)
def test_something_of_ours_dies_while_memory_is_written(site: Site, victim: str) -> None:
    namespace = site.namespace(NAME)
    with struck_in_a_stream(site, PIDS[victim]):
        client = site.start("fork", NAME, FORK)
    if "guard" not in victim:
        site.assert_answers_soon(namespace)
    if not site.serves():
        site.serve()
    site.assert_answers_soon(namespace)
    finished_or_gone(site, client)


@contextmanager
def struck_in_a_stream(site: Site, pids: str) -> Iterator[None]:
    """Kills these processes as soon as they and a file for a memory are there, which must be; then leaves."""
    there = f"ls {STATE}/memory/*/*.mem && kill -0 $({pids})"
    script = f"echo ready; until {there}; do sleep 0.01; done >/dev/null 2>&1; kill -9 $({pids})"
    argv: Sequence[str] = site.lab.command(["sh", "-c", script])
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as striker:
        assert striker.stdout is not None
        assert striker.stdout.readline() == b"ready\n"
        try:
            yield
            assert striker.wait(60) == 0
        finally:
            striker.kill()


def test_serve_dies_at_random_moments_of_a_fork(site: Site) -> None:
    namespace, moments = site.namespace(NAME), random.Random(20261122)
    for _ in range(2):
        client = site.start("fork", NAME, FORK)
        time.sleep(moments.uniform(0.5, 3))
        site.kill_serve()
        site.assert_answers_soon(namespace)
        site.serve()
        if finished_or_gone(site, client):
            site.forkbed("discard", FORK)


def test_serve_dies_in_a_rollback(site: Site) -> None:
    """Until what is there is given up, it goes on; from then on the rollback is finished."""
    namespace = site.namespace(NAME)
    site.forkbed("snapshot", NAME, "good")
    mark = site.heard(NAME)
    site.kill_serve()
    site.serve(kill_at="cut trio: done")
    client = site.start("rollback", NAME, "good")
    site.await_that(lambda: not site.serves(), "the server dies while all stands still")
    site.assert_answers_soon(namespace)
    site.serve(kill_at="switch trio: begun")
    assert client.wait(150) != 0, "it is taken back"
    assert site.snapshot_names() == ["good"]
    site.await_that(lambda: site.heard(NAME) > mark + 10, "it goes on")

    client = site.start("rollback", NAME, "good")
    site.await_that(lambda: not site.serves(), "the server dies when all is given up")
    before = site.got(namespace)
    site.serve(kill_at="restore a: begun")
    site.await_that(lambda: not site.serves(), "the server dies when all is down")
    site.serve()
    assert client.wait(150) == 0, site.said()
    _, kept = site.snapshot_names()
    assert kept.startswith("before-rollback-")
    site.assert_goes_on(NAME)
    assert before == 0, "what was given up never went on"
    site.forkbed("rollback", NAME, kept)
    assert site.heard(NAME) > mark + 10
