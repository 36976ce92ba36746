"""Forks of running machines go on exactly where the original was, and are systems like any other."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator

import pytest

from forkbed.lab.session import forkbed_program
from tests.real.forks.original import ADDRESS, NAME, TALKERS, Site

FORKS = ("twin-1", "twin-2")
CLOCK_TOLERANCE_S = 2.0


@pytest.fixture(scope="module")
def early(original: Site) -> Iterator[float]:
    """A snapshot made before all else here; the time of its cut."""
    original.forkbed("snapshot", NAME, "early", "--message", "before it got late")
    yield original.snapshots()[0].cut_at


def test_forks_go_on_where_the_original_was(early: float, twins: Site) -> None:
    twins.assert_goes_on(NAME, *FORKS)
    uptimes = [float(twins.shell(f"{name}/a", "cut -d' ' -f1 /proc/uptime")) for name in (NAME, *FORKS)]
    assert min(uptimes) > 10, "none has booted just now"
    for fork in FORKS:
        script = "cat /run/mark /data/mark /proc/$(cat /run/holder)/fd/3 /root/set-up; ls /data"
        kept = twins.shell(f"{fork}/a", script).splitlines()
        assert kept == ["kept in memory", "kept on disk", "kept open", "once", "lost+found", "mark"]


def test_a_machine_that_was_off_is_off_in_the_fork(twins: Site) -> None:
    assert twins.machine("twin-1", "c")["power"] == "off"
    twins.forkbed("start", "twin-1/c")
    assert twins.shell("twin-1/c", "cat /root/set-up; hostname") == "once\nc"
    assert twins.machine(NAME, "c")["power"] == twins.machine("twin-2", "c")["power"] == "off"
    twins.forkbed("stop", "twin-1/c")


def test_what_is_written_in_one_is_in_no_other(twins: Site) -> None:
    systems = (NAME, *FORKS)
    for name in systems:
        for machine in TALKERS:
            twins.shell(f"{name}/{machine}", f"echo {name} | tee /run/whose >/data/whose; sync")
    for name in systems:
        for machine in TALKERS:
            script = "echo 3 >/proc/sys/vm/drop_caches; cat /run/whose /data/whose; rm /run/whose /data/whose"
            assert twins.shell(f"{name}/{machine}", script).split() == [name, name]


def test_twins_draw_different_random_numbers_at_once(twins: Site) -> None:
    def drawn(fork: str) -> list[str]:
        return twins.shell(f"{fork}/b", "cat /run/random").split()

    before = {fork: len(drawn(fork)) for fork in FORKS}
    twins.await_that(lambda: all(len(drawn(fork)) > before[fork] + 3 for fork in FORKS), "they draw")
    one, other = (drawn(fork) for fork in FORKS)
    assert one[0] == other[0], "before the cut they were one"
    assert not set(one[before[FORKS[0]] :]) & set(other)
    assert not set(other[before[FORKS[1]] :]) & set(one)
    common = max((number for number, value in enumerate(one, 1) if value in set(other)), default=0)
    print(f"{before[FORKS[0]] - common} numbers of their own when the fork was ready")


def test_a_fork_says_what_it_is(early: float, twins: Site) -> None:
    listed = {row["name"]: row for row in twins.forkbed("list", "--json").json()}
    assert {name: row["fork_of"] for name, row in listed.items()} == dict.fromkeys(FORKS, NAME) | {NAME: ""}
    (root,) = twins.forkbed("tree", NAME, "--json").json()
    assert root["kind"] == "system"
    below = {child["name"]: child for child in root["children"]}
    assert {fork: below[fork]["kind"] for fork in FORKS} == dict.fromkeys(FORKS, "fork")
    assert below["twin-1"]["note"] == "two of one"
    assert (below["early"]["kind"], below["early"]["at"]) == ("snapshot", early)
    told = [event.attributes or {} for event in twins.events("system.forked")]
    assert [(event["fork"], event["account"]) for event in told[-2:]] == [(fork, "root") for fork in FORKS]
    assert f"fork {NAME} twin --count 2" in str(told[-1]["command"])


def test_ssh_agent_and_console_reach_into_a_fork(twins: Site) -> None:
    for options in ((), ("--via", "agent")):
        assert twins.forkbed("exec", *options, "twin-1/a", "--", "hostname").out == "a\n"
    assert twins.forkbed("ssh", "twin-1/a", "--", "echo $((40 + 2))").out.strip() == "42"
    told = on_terminal(
        twins,
        "console",
        "twin-1/a",
        ready="leaves it",
        type_this="echo $((40 + 2)) $(cat /run/mark)\n",
        until="42 kept",
    )
    assert "twin-1/a" in told
    assert f"fork of {NAME}" in told


def on_terminal(site: Site, *words: str, ready: str, type_this: str, until: str) -> str:
    """Run a command with a terminal, type something once it is ready, and return what it said until the end."""
    ours, theirs = pty.openpty()
    argv = [str(forkbed_program()), *words, "--lab", site.lab.name]
    with subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        said, deadline = "", time.monotonic() + 30
        try:
            while until not in said:
                assert time.monotonic() < deadline, said
                if select.select([ours], [], [], 1)[0]:
                    said += os.read(ours, 65536).decode(errors="replace")
                elif ready in said:
                    os.write(ours, type_this.encode())  # again, if it came before the terminal was ours
        finally:
            process.kill()
            os.close(ours)
    return said


def test_a_fork_of_an_earlier_instant_knows_what_time_it_is(early: float, twins: Site) -> None:
    while time.time() < early + 5 * CLOCK_TOLERANCE_S:
        time.sleep(0.2)
    twins.fork("late", "--at", "early", "--expires", "1h")
    try:
        for machine in TALKERS:
            before = time.time()
            date = float(twins.shell(f"late/{machine}", "date +%s"))
            assert before - CLOCK_TOLERANCE_S <= date <= time.time() + CLOCK_TOLERANCE_S
        twins.assert_goes_on("late")
        assert twins.heard("late") < twins.heard("twin-1"), "it was cut earlier"
        (child,) = (
            c for c in twins.forkbed("tree", NAME, "--json").json()[0]["children"] if c["name"] == "early"
        )
        assert [(fork["name"], bool(fork["expires_at"])) for fork in child["children"]] == [("late", True)]
        stays_itself_after_a_reboot(twins, "late")
    finally:
        twins.forkbed("discard", "late")


def stays_itself_after_a_reboot(site: Site, fork: str) -> None:
    """The same host key, addresses and set-up; another boot."""
    key = "md5sum </etc/dropbear/dropbear_ed25519_host_key"
    who = "ip -o addr show dev eth0 | awk '/inet / {print $4}'; cat /sys/class/net/eth0/address /root/set-up /data/mark"
    expected = site.shell(f"{NAME}/a", key), site.shell(f"{NAME}/a", who)
    site.forkbed("restart", f"{fork}/a")
    assert (site.shell(f"{fork}/a", key), site.shell(f"{fork}/a", who)) == expected
    assert site.shell(f"{fork}/a", "ls /run/mark", status=None) == "", "it did boot"
    assert ADDRESS["a"] in expected[1]
