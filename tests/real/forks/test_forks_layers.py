"""Chains of layers are folded while machines write and while they rest; contents stay, and nothing is leaked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from tests.real.forks.original import NAME, Site

LONGEST = 8
SHORTEST = 3
MACHINE = f"{NAME}/a"
_WRITE = "head -c 300000 /dev/urandom | tee /root/random-{0} >/data/random-{0}; sync"
_LOG = """rm -f /run/enough /data/log; number=0
    while [ ! -e /run/enough ]; do number=$((number+1)); echo $number >>/data/log; sync; sleep 0.2; done
    touch /run/ended"""


def content(site: Site, files: Iterable[str]) -> Mapping[str, str]:
    """The host's view of files that nobody may write."""
    directory = site.lab.paths.state / "volumes"
    return {
        file: hashlib.blake2b((directory / file.rpartition("/")[2]).read_bytes()).hexdigest()
        for file in files
    }


def longest(site: Site) -> int:
    return max(len(chain) for chain in site.chains(NAME).values())


def allocated_bytes(site: Site) -> int:
    return sum((site.volumes / name).stat().st_blocks * 512 for name in site.volume_files())


def test_a_chain_is_folded_while_its_machine_writes(site: Site) -> None:
    site.shell(MACHINE, f"({_LOG}) </dev/null >/dev/null 2>&1 &")
    disks = ("a/root", "a/vol-data")
    pinned: list[str] = []
    for number in range(3):
        site.shell(MACHINE, _WRITE.format(number))
        site.forkbed("snapshot", NAME, f"cut-{number}", "--disks-only")
        pinned += [site.chains(NAME)[disk][1] for disk in disks]
    sums = site.checksums(MACHINE, "/root", "/data/random-*")
    before = content(site, pinned)
    site.forkbed("fold", NAME)
    assert content(site, pinned) == before, "what snapshots need is not written"
    assert site.checksums(MACHINE, "/root", "/data/random-*") == sums
    for number in range(3):
        site.forkbed("snapshot-delete", NAME, f"cut-{number}")
    site.forkbed("fold", NAME)
    assert {disk: len(site.chains(NAME)[disk]) for disk in disks} == dict.fromkeys(disks, SHORTEST)
    site.shell(MACHINE, "touch /run/enough; while [ ! -e /run/ended ]; do sleep 0.1; done; rm /run/ended")
    assert site.checksums(MACHINE, "/root", "/data/random-*") == sums
    log = site.shell(MACHINE, "cat /data/log").split()
    assert log == [str(number) for number in range(1, len(log) + 1)]

    site.fork("rest")
    site.forkbed("stop", "rest")
    assert "fold" in site.forkbed("fold", "rest").err
    site.forkbed("start", "rest/a")
    assert site.checksums("rest/a", "/root", "/data/random-*") == sums
    assert len(site.chains("rest")["a/vol-data"]) <= SHORTEST + 1, "the original's layer is shared"
    site.shell(MACHINE, "rm /root/random-* /data/random-* /data/log")


def test_rounds_of_snapshot_fork_write_delete_discard(site: Site) -> None:
    site.forkbed("fold", NAME)
    site.shell(MACHINE, _WRITE.format("kept"))
    sums = site.checksums(MACHINE, "/root", "/data")
    allocated = allocated_bytes(site)
    for number in range(5):
        site.forkbed("snapshot", NAME, "before", "--disks-only")
        site.fork("try")
        assert site.checksums("try/a", "/root", "/data") == sums
        site.shell("try/a", f"{_WRITE.format(number)}; rm /data/random-kept; sync")
        site.shell(MACHINE, f"echo {number} >/data/round; sync")
        site.forkbed("snapshot-delete", NAME, "before")
        site.forkbed("discard", "try")
        sums = site.checksums(MACHINE, "/root", "/data")
    site.await_that(lambda: longest(site) <= LONGEST, "what got too long is folded unasked")
    site.await_idle()
    assert site.leaked() == set()
    assert site.checksums(MACHINE, "/root", "/data") == sums
    site.forkbed("fold", NAME)
    assert longest(site) <= SHORTEST
    assert site.shell(MACHINE, "cat /data/round") == "4"
    assert site.checksums(MACHINE, "/root", "/data") == sums
    assert allocated_bytes(site) < allocated + 4 * 1024 * 1024
    site.shell(MACHINE, "rm /root/random-kept /data/random-kept /data/round")
