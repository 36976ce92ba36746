"""Snapshots of machines in every state, rollbacks and their way back, and what goes when something is removed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.real.forks.original import NAME, STATE, Site


def test_a_rollback_and_its_way_back_keep_memory_and_disks(site: Site) -> None:
    site.shell(f"{NAME}/a", "echo first | tee /run/state >/data/state; sync")
    site.forkbed("snapshot", NAME, "first")
    cut = site.heard(NAME)
    site.shell(f"{NAME}/a", "echo second | tee /run/state >/data/state; rm /data/mark; sync")
    later = site.heard(NAME)
    assert site.forkbed("rollback", NAME, "first").status == 0
    assert site.shell(f"{NAME}/a", "cat /run/state /data/state /data/mark").split("\n") == [
        "first",
        "first",
        "kept on disk",
    ]
    site.assert_goes_on(NAME)
    first, kept = site.snapshots()
    assert (kept.automatic, kept.kind, kept.name[:16]) == (True, "live", "before-rollback-")
    assert {m.name: m.method for m in kept.machines} == {"a": "paused", "b": "paused", "c": "none"}
    assert first.cut_at < kept.cut_at
    assert cut <= later

    site.forkbed("rollback", NAME, kept.name)
    assert site.shell(f"{NAME}/a", "cat /run/state /data/state").split() == ["second", "second"]
    assert site.heard(NAME) >= later, "whoever was heard is not forgotten"
    site.assert_goes_on(NAME)
    site.shell(f"{NAME}/a", "echo kept on disk >/data/mark; rm /run/state /data/state; sync")


def test_memories_are_private_and_go_when_they_are_not_needed(site: Site) -> None:
    site.forkbed("snapshot", NAME, "one", "--message", "why", "--expires", "1h")
    files = site.memory_files()
    assert len([name for name in files if name.endswith(".mem")]) == 2
    assert {mode for name, mode in files.items() if "." in name} == {0o600}
    assert {mode for name, mode in files.items() if "." not in name} == {0o700}
    (one,) = site.snapshots()
    assert one.memory_bytes == sum(machine.memory_bytes for machine in one.machines)
    assert one.own_bytes >= one.memory_bytes > 100 * 1024 * 1024
    assert all(
        m.frozen_s is not None and m.frozen_at is not None for m in one.machines if m.power == "running"
    )
    assert (one.message, one.kind, bool(one.expires_at)) == ("why", "live", True)
    assert one.skew_s < min(m.frozen_s for m in one.machines if m.frozen_s is not None)
    site.fork("now")
    assert site.memory_files() == files, "a fork's own cut leaves none"
    site.forkbed("snapshot-delete", NAME, "one")
    assert site.memory_files() == {}
    site.assert_goes_on("now")


def test_snapshots_and_forks_expire(site: Site) -> None:
    site.forkbed("snapshot", NAME, "short", "--disks-only", "--expires", "1s")
    site.fork("brief", "--expires", "1s")
    site.await_that(lambda: not site.snapshots() and site.systems() == {NAME}, "both have expired")
    site.await_idle()
    begun = [event.attributes or {} for event in site.events("operation.succeeded")]
    assert {(a.get("kind"), a.get("subject")) for a in begun} >= {
        ("snapshot-delete", NAME),
        ("discard", "brief"),
    }
    operations = site.forkbed("operations", "list", "--json").json()
    reasons = {o["requester"]["command"] for o in operations if o["requester"]["account"] == "forkbed"}
    assert reasons >= {"snapshot short has expired", "fork brief has expired"}


@pytest.fixture
def third(site: Site) -> Iterator[str]:
    """`c`, running for once."""
    machine = f"{NAME}/c"
    site.forkbed("start", machine)
    yield machine
    site.forkbed("stop", machine)


def test_a_machine_without_an_agent(site: Site, third: str) -> None:
    site.shell(
        third, "echo memory >/run/mark; echo disk >/data/mark; mv /usr/sbin/qemu-ga /root; killall qemu-ga"
    )
    try:
        site.forkbed("snapshot", NAME, "disks", "--disks-only")
        disks = {cut.name: cut for cut in site.snapshots()[0].machines}
        quiesced = {name: (cut.method, cut.quiesced) for name, cut in disks.items()}
        assert quiesced == {"a": ("disks", True), "b": ("disks", True), "c": ("disks", False)}
        assert disks["c"].note.startswith("not quiesced")
        site.fork("silent")
        kept = site.shell("silent/c", "cat /run/mark /data/mark; ls /root/qemu-ga", via="ssh")
        assert kept.split() == ["memory", "disk", "/root/qemu-ga"]
        told = site.events("machine.not-awakened")[-1]
        assert (told.system, told.machine) == ("silent", "c")
    finally:
        site.shell(third, "mv /root/qemu-ga /usr/sbin", via="ssh")


def test_a_paused_machine_stays_paused_in_the_fork(site: Site, third: str) -> None:
    site.shell(third, "echo memory >/run/mark")
    site.forkbed("pause", third)
    site.forkbed("snapshot", NAME, "paused")
    assert site.machine(NAME, "c")["power"] == "paused"
    site.fork("still", "--at", "paused")
    assert site.machine("still", "c")["power"] == "paused"
    site.forkbed("resume", "still/c")
    assert site.shell("still/c", "cat /run/mark") == "memory"
    site.forkbed("resume", third)
    assert site.shell(third, "cat /run/mark") == "memory"


def test_a_discarded_fork_leaves_what_others_stand_on(site: Site) -> None:
    """`child` is a fork of `mother`; when she goes, her layers stay for it, and go with it."""
    site.fork("mother")
    site.shell("mother/a", "for n in $(seq 20); do head -c 100000 /dev/urandom >/data/mothers-$n; done; sync")
    site.forkbed("fork", "mother", "child")
    site.shell("child/a", "head -c 100000 /dev/urandom >/data/childs; rm /data/mothers-7; sync")
    sums = site.checksums("child/a", "/data", "/etc")
    assert len(sums.splitlines()) > 20
    (root,) = site.forkbed("tree", "child", "--json").json()
    assert [(fork["name"], [f["name"] for f in fork["children"]]) for fork in root["children"]] == [
        ("mother", ["child"])
    ]
    assert "child" in site.forkbed("discard", "mother").err
    assert site.systems() == {NAME, "child"}
    assert site.checksums("child/a", "/data", "/etc") == sums
    site.assert_goes_on(NAME, "child")
    site.forkbed("restart", "child/a")
    assert site.checksums("child/a", "/data", "/etc") == sums
    assert "nothing of it is kept" in site.forkbed("discard", "child").err


def all_halts(site: Site) -> int:
    """How often machines went on so far; events are written some tenths of a second later."""
    time.sleep(1)
    return len(site.events("machine.resumed"))


def test_no_room_for_memory_is_said_before_anything_stands_still(site: Site) -> None:
    directory = f"{STATE}/memory"
    site.lab.run(["sh", "-c", f"mkdir -p {directory} && mount -t tmpfs -o size=32m tmpfs {directory}"])
    try:
        halts = all_halts(site)
        refused = site.forkbed("fork", NAME, "never", status=4).err
        assert "no room for its memory" in refused
        assert all_halts(site) == halts
        assert site.systems() == {NAME}
        site.forkbed("snapshot", NAME, "without", "--disks-only")
    finally:
        site.lab.run(["umount", directory])
