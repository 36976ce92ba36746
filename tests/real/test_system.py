"""Systems of real guests, as a person uses them: brought up, changed, used, taken down; nothing left behind."""

from __future__ import annotations

import hashlib
import os
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkbed import lab as labs
from tests.real.installation import PAIR, Installation, prepare


@pytest.fixture(scope="module")
def served(lab_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with labs.temporary(lab_dir, "test-system-") as lab:
        yield prepare(lab, tmp_path_factory.mktemp("served"))


@pytest.fixture
def installation(served: Installation) -> Iterator[Installation]:
    yield served
    served.remove_everything()


def is_refused(url: str) -> bool:
    try:
        fetch(url)
    except OSError as error:
        return "refused" in str(error)
    return False


def fetch(url: str) -> str:
    """What the service answers; the lab's relay needs a moment to hear of a new port."""
    for tries_left in range(20, -1, -1):
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            if not tries_left:
                raise
            time.sleep(0.1)
    raise AssertionError


def test_the_life_of_a_system(installation: Installation) -> None:
    plan = installation.directory / "system.yaml"
    plan.write_text(PAIR)
    assert "+ machine a" in installation.forkbed("plan", plan).out
    installation.up(PAIR)
    assert installation.forkbed("list", "--json").json()[0]["state"] == "up"
    assert fetch("http://127.0.0.1:18180/") == "hello\n"
    assert installation.exec("pair/b", "wget", "-qO-", "http://a/").out == "hello\n"
    assert installation.exec("pair/b", "sh", "-c", "echo no >&2; exit 7", status=7).err == "no\n"
    installation.exec("pair/a", "sh", "-c", "echo precious > /data/file; sync")

    again = installation.up(PAIR)
    assert installation.show("pair")["summary"]["revision"] == 1, again.err
    assert not installation.forkbed("operations", "show", last_operation(installation), "--json").json()[
        "journal"
    ]

    moved = PAIR.replace("18180:80", "18181:80")
    installation.up(moved)
    assert fetch("http://127.0.0.1:18181/") == "hello\n"
    installation.await_that(lambda: is_refused("http://127.0.0.1:18180/"), "the relay lets the old port go")

    before = installation.machine("pair", "b")
    grown = moved + "    cpus: 2\n"
    assert "cpus: 1 -> 2: waits for its next start" in installation.up(grown).err
    assert installation.machine("pair", "b")["restart_pending"]
    assert installation.exec("pair/b", "nproc").out == "1\n"
    installation.up(grown, "--restart")
    assert installation.exec("pair/b", "nproc").out == "2\n"
    assert installation.machine("pair", "b")["addresses"] == before["addresses"]

    installation.forkbed("down", "pair")
    assert installation.domains() == set()
    installation.up(grown)
    assert installation.exec("pair/a", "cat", "/data/file").out == "precious\n"

    without = grown.replace("    volumes: {data: {size: 32MiB, mount: /data}}\n", "")
    refused = installation.up(without, status=7)
    assert "a/data" in refused.err
    assert installation.exec("pair/a", "cat", "/data/file").out == "precious\n"
    installation.up(without, "--destroy", "a/data")
    assert "data" not in dict(installation.machine("pair", "a")["volumes"])

    installation.forkbed("down", "pair", "--delete")
    assert installation.leftovers() == ""


def last_operation(installation: Installation) -> str:
    identity: str = installation.forkbed("operations", "list", "--json").json()[0]["id"]
    return identity


def test_a_larger_root_and_what_the_seed_brings(installation: Installation) -> None:
    files = installation.directory / "motd"
    files.write_text("welcome\n")
    (installation.directory / "key").write_text("s3cret\n")
    text = """version: 1
system: solo
networks: {lan: {subnet: 10.31.0.0/24}}
machines:
  one:
    image: micro
    memory: 128MiB
    root: 600MiB
    files: [{path: /etc/motd, source: motd, mode: "0640"}]
    secrets: [{path: /etc/key, source: key}]
    ssh: {users: {ann: {keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"]}}}
"""
    installation.up(text)
    size_kib = int(installation.exec("solo/one", "df", "-k", "/").out.splitlines()[-1].split()[1])
    assert size_kib > 500 * 1024
    assert installation.exec("solo/one", "cat", "/etc/motd").out == "welcome\n"
    assert installation.exec("solo/one", "cat", "/etc/key").out == "s3cret\n"
    modes = installation.exec("solo/one", "stat", "-c", "%a", "/etc/motd", "/etc/key").out.split()
    assert modes == ["640", "600"]
    assert "ssh-ed25519" in installation.exec("solo/one", "cat", "/home/ann/.ssh/authorized_keys").out
    assert installation.forkbed("exec", "--user", "ann", "solo/one", "--", "id", "-un").out == "ann\n"
    shown = installation.forkbed("show", "solo", "--json").out + installation.forkbed("history", "solo").out
    assert "s3cret" not in shown
    files.write_text("changed\n")
    assert installation.up(text).status == 0
    assert installation.machine("solo", "one")["restart_pending"]
    installation.up(text, "--restart")
    assert installation.exec("solo/one", "cat", "/etc/motd").out == "changed\n"


def test_streams_and_copies(installation: Installation, tmp_path: Path) -> None:
    installation.up(PAIR)
    data = os.urandom(8 * 1024 * 1024)
    source = tmp_path / "source"
    source.write_bytes(data)
    installation.forkbed("copy", source, "pair/b:/tmp/there")
    digest = installation.exec("pair/b", "md5sum", "/tmp/there").out.split()[0]
    assert digest == hashlib.md5(data, usedforsecurity=False).hexdigest()
    installation.forkbed("copy", "pair/b:/tmp/there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    echoed = installation.exec("pair/a", "cat", data=b"x" * 1_000_000)
    assert len(echoed.out) == 1_000_000
    agent = installation.forkbed("exec", "--via", "agent", "pair/a", "--", "hostname")
    assert agent.out == "a\n"
    assert "agent" in agent.err
    assert "a" in installation.forkbed("logs", "pair/a").out


def test_two_systems_alike_live_side_by_side(installation: Installation) -> None:
    twin = PAIR.replace("system: pair", "system: twin").replace("18180", "18190").replace("hello", "twin")
    installation.up(PAIR)
    installation.up(twin)
    assert (
        installation.machine("pair", "b")["addresses"][0][1]
        == installation.machine("twin", "b")["addresses"][0][1]
    )
    assert installation.exec("pair/b", "wget", "-qO-", "http://a/").out == "hello\n"
    assert installation.exec("twin/b", "wget", "-qO-", "http://a/").out == "twin\n"
    assert fetch("http://127.0.0.1:18180/") == "hello\n"
    assert fetch("http://127.0.0.1:18190/") == "twin\n"


def test_a_guest_cannot_be_somebody_else(installation: Installation) -> None:
    installation.up(PAIR)
    reach_a = ("ping", "-c", "2", "-W", "1", "10.30.0.10")
    installation.forkbed("exec", "--via", "agent", "pair/b", "--", *reach_a)  # the positive control
    for disguise, undo in (
        (
            "ip addr add 10.30.0.99/24 dev eth0 && ip route replace 10.30.0.10 dev eth0 src 10.30.0.99",
            "ip route del 10.30.0.10; ip addr del 10.30.0.99/24 dev eth0",
        ),
        (
            "ip link set eth0 address 02:00:00:00:00:77 && ip neigh flush dev eth0",
            "ip link set eth0 address $(cat /tmp/mac)",
        ),
    ):
        script = f"cat /sys/class/net/eth0/address > /tmp/mac; {disguise}; {' '.join(reach_a)}; r=$?; {undo}; exit $r"
        done = installation.forkbed("exec", "--via", "agent", "pair/b", "--", "sh", "-c", script, status=None)
        assert done.status == 1, f"{disguise}: {done.out}{done.err}"
    for target in ("10.30.0.1 22", "198.18.0.1 22", "198.18.0.1 111"):
        script = f"nc -w 2 {target} </dev/null"
        assert installation.exec("pair/b", "sh", "-c", script, status=None).status != 0
    show_own = "ip -6 -o addr show dev eth0 scope link"
    neighbour = installation.exec("pair/a", "sh", "-c", show_own).out.split()[3].partition("/")[0]
    assert neighbour.startswith("fe80::")
    by_ipv6 = ("ping", "-6", "-c", "1", "-W", "1", f"{neighbour}%eth0")
    assert installation.exec("pair/a", *by_ipv6).status == 0  # the positive control
    assert installation.exec("pair/b", *by_ipv6, status=None).status != 0


def test_an_isolated_machine_is_reached_from_the_host(installation: Installation) -> None:
    isolated = PAIR.replace(", uplink: nat", "").replace('    publish: ["18180:80"]\n', "")
    installation.up(isolated)
    assert installation.exec("pair/a", "hostname").out == "a\n"
    assert "there are: a, b" in installation.forkbed("exec", "pair/nobody", "--", "true", status=3).err
    outside = installation.exec("pair/a", "ping", "-c", "1", "-W", "1", "198.18.0.254", status=None)
    assert outside.status != 0


def test_what_is_wrong_is_told_at_its_place_and_changes_nothing(installation: Installation) -> None:
    wrong = PAIR.replace(
        "image: micro\n    memory: 128MiB\n    after", "image: mikro\n    memroy: 128MiB\n    after"
    )
    done = installation.up(wrong, status=2)
    assert "system.yaml:16:12: machines.b.image" in done.err
    assert "system.yaml:17:5: machines.b.memroy" in done.err
    assert installation.forkbed("list", "--json").json() == []


def test_a_machine_that_cannot_become_ready_tells_why(installation: Installation) -> None:
    text = PAIR.replace("ready: [{http: {port: 80}}]", "ready: [{tcp: 81, timeout: 4s}]")
    done = installation.up(text, status=8)
    assert "tcp :81" in done.err
    assert "serial console" in done.err
    assert "start b" in done.err  # what was not tried because of it


def test_a_restart_runs_set_up_for_each_boot_only(installation: Installation) -> None:
    text = PAIR.replace(
        "mkdir -p /www && echo hello > /www/index.html", "mkdir -p /www && echo once >> /www/index.html"
    )
    installation.up(text)
    installation.forkbed("restart", "pair/a")
    assert fetch("http://127.0.0.1:18180/") == "once\n"


def test_a_seed_that_cannot_be_taken_over_is_told(installation: Installation) -> None:
    text = PAIR.replace("mount: /data", "mount: /etc/passwd/no")
    done = installation.up(text, status=8)
    assert "did not take over all that its manifest declares" in done.err
