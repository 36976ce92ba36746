"""Real guests: seeds that arrive, commands with streams and users, agent, probes, set-up, kept connections."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.systems.spec import (
    FileSpec,
    ProbeKind,
    ProbeSpec,
    ResolvedMachine,
    SecretSpec,
    SetupSpec,
    SetupWhen,
    UserSpec,
)
from forkbed.ports.guests import CommandRequest
from forkbed.ports.progress import Silence
from tests.real.bench_host import BenchHost, collect, two_nics
from tests.unit.drivers import samples

BOSS = samples.machine(
    "boss",
    files=(
        FileSpec("/etc/motd", "hash-of-motd"),
        FileSpec("/srv/app/run", "hash-of-motd", 0o750, "ann:staff"),
    ),
    secrets=(SecretSpec("/etc/token", "token", "v1"),),
    users=(UserSpec("ann", (), ("staff",)),),
)
OPS = two_nics(samples.machine("ops", number=2, data=False))
LARGE = 50 * 1024**2
HARD_WORDS = ("a b", "it's", '"', "$HOME `id` \\", "line\nline\n", "", "*", "-n", "ünï", "~")


@pytest.fixture(scope="module")
def host(bench_host: BenchHost) -> Iterator[BenchHost]:
    """`boss` and `ops` running."""
    for machine in (BOSS, OPS):
        bench_host.define(machine)
        bench_host.hypervisor.start(machine.id)
    try:
        for machine in (BOSS, OPS):
            assert bench_host.guests.await_reachable(bench_host.address(machine), 90, Silence()) == "ssh"
        yield bench_host
    finally:
        for machine in (BOSS, OPS):
            bench_host.discard(machine)


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def shell(host: BenchHost, script: str, machine: ResolvedMachine = BOSS, **how: str) -> str:
    status, output, errors = host.run(machine, "sh", "-c", script, **how)  # type: ignore[arg-type]
    assert (status, errors) == (0, b""), (status, output, errors)
    return output.decode()


def test_the_seed_arrives(host: BenchHost) -> None:
    assert shell(host, "cat /run/forkbed/seed-status /etc/hostname") == "applied\nboss\n"
    assert shell(host, "cat /etc/motd /etc/token") == "hello\ns3cret"
    described = shell(host, "stat -c '%a %U:%G' /etc/motd /etc/token /srv/app/run /home/ann/.ssh")
    assert described.splitlines() == ["644 root:root", "600 root:root", "750 ann:staff", "700 ann:ann"]
    assert "/srv/data" in shell(host, "mount | grep vd")
    assert shell(host, "hostname", OPS) == "ops\n"


@pytest.mark.parametrize("via", ["ssh", "agent"])
@pytest.mark.parametrize("user", ["root", "ann"])
def test_words_user_and_status(host: BenchHost, via: str, user: str) -> None:
    script = 'id -un; pwd; for word; do printf "%s\\0" "$word"; done; echo errors >&2; exit 7'
    status, output, errors = host.run(BOSS, "sh", "-c", script, "sh", *HARD_WORDS, user=user, via=via)
    assert (status, errors) == (7, b"errors\n")
    name, directory, words = output.split(b"\n", 2)
    assert name.decode() == user
    assert directory == (b"/root" if user == "root" else b"/home/ann")
    assert words.split(b"\0")[:-1] == [word.encode() for word in HARD_WORDS]


@pytest.mark.parametrize("via", ["ssh", "agent"])
@pytest.mark.parametrize(
    ("argv", "wanted"),
    [(("true",), 0), (("sh", "-c", "exit 255"), 255), (("sh", "-c", "kill -9 $$"), 137), (("no-such",), 127)],
)
def test_statuses(host: BenchHost, via: str, argv: tuple[str, ...], wanted: int) -> None:
    assert host.run(BOSS, *argv, via=via)[0] == wanted


def test_an_unknown_user_is_told(host: BenchHost) -> None:
    status, _, errors = host.run(BOSS, "true", user="nobody-here")
    assert status != 0
    assert b"nobody-here" in errors


def test_large_streams_both_ways_at_once(host: BenchHost) -> None:
    """What goes in comes out the same; the guest checks it too."""
    block = bytes(range(256)) * 4096
    sent, received = hashlib.sha256(), hashlib.sha256()
    length = 0
    started = time.monotonic()
    with host.guests.open_command(host.address(BOSS), CommandRequest(("tee", "/proc/self/fd/2"))) as channel:

        def send() -> None:
            for _ in range(LARGE // len(block)):
                channel.write(block)
                sent.update(block)
            channel.close_input()

        sender = threading.Thread(target=send)
        sender.start()
        counts = {"stdout": 0, "stderr": 0}
        while (piece := channel.read(30)) is not None:
            name, data = piece
            assert name, "nothing for 30 s"
            counts[name] += len(data)
            if name == "stdout":
                received.update(data)
                length += len(data)
        sender.join()
        assert channel.exit_status() == 0
    assert counts == {"stdout": LARGE, "stderr": LARGE}
    assert received.digest() == sent.digest()
    took = time.monotonic() - started
    print(f"\n50 MiB in, 100 MiB out: {took:.1f} s, {3 * LARGE / took / 1024**2:.1f} MiB/s")


def test_a_slow_reader_slows_the_command_and_holds_little(host: BenchHost) -> None:
    with host.guests.open_command(host.address(BOSS), CommandRequest(("cat", "/dev/zero"))) as channel:
        assert channel.read(30)
        time.sleep(1)
        before = sent_by_guest(host)
        time.sleep(1)
        assert sent_by_guest(host) - before < 1024**2
        assert channel.read(30) not in (None, ("", b""))


def sent_by_guest(host: BenchHost) -> int:
    return int(shell(host, "cat /sys/class/net/eth0/statistics/tx_bytes", via="agent"))


@pytest.mark.parametrize("via", ["ssh", "agent"])
@pytest.mark.parametrize("user", ["root", "ann"])
def test_a_command_ends_when_its_channel_is_left(host: BenchHost, via: str, user: str) -> None:
    number = f"4{len(via)}{len(user)}42"
    request = CommandRequest(("sh", "-c", f"trap '' HUP; sleep {number} & echo here; wait"), user, via=via)
    with host.guests.open_command(host.address(BOSS), request) as channel:
        assert channel.read(20) == ("stdout", b"here\n")
        assert number in shell(host, "ps")
    wait_until(lambda: f"sleep {number}" not in shell(host, "ps"), "the command's end")
    wait_until(lambda: commands_in(host) == "1", "a clean guest, but for this question's own record")


def commands_in(host: BenchHost) -> str:
    return shell(host, "ls -d /run/forkbed/commands/* /var/tmp/forkbed-* 2>/dev/null | wc -l").strip()


def test_a_terminal(host: BenchHost) -> None:
    request = CommandRequest((), terminal=(30, 100))
    with host.guests.open_command(host.address(BOSS), request) as channel:
        channel.write(b"stty size; tty; echo $((40 + 2))-$TERM\r")
        output = read_until(channel.read, b"42-xterm")
        assert b"30 100" in output
        assert b"/dev/pts/" in output
        channel.resize(50, 120)
        channel.write(b"stty size\r")
        assert b"50 120" in read_until(channel.read, b"50 120")
        channel.write(b"exit 9\r")
        while channel.read(20) is not None:
            pass
        assert channel.exit_status() == 9


def test_an_interrupt_typed_into_a_terminal(host: BenchHost) -> None:
    request = CommandRequest(("sh", "-c", "echo ready; sleep 60"), "ann", terminal=(24, 80))
    with host.guests.open_command(host.address(BOSS), request) as channel:
        read_until(channel.read, b"ready")
        channel.write(b"\x03")
        while (piece := channel.read(20)) is not None:
            assert piece[0], "the interrupt had no effect"
        assert channel.exit_status() == 130


def read_until(read: Callable[[float], tuple[str, bytes] | None], wanted: bytes) -> bytes:
    output = b""
    while wanted not in output:
        piece = read(20)
        assert piece is not None and piece[0], f"{wanted!r} did not come, but {output!r}"
        output += piece[1]
    return output


def test_the_agent_streams_too_and_says_what_it_cannot_do(host: BenchHost) -> None:
    address = host.address(BOSS)
    with host.guests.open_command(address, CommandRequest(("md5sum",), via="agent")) as channel:
        assert channel.via == "agent"
        assert "no terminal" in channel.notice
        for _ in range(6):
            channel.write(b"x" * 150_000)
        channel.close_input()
        assert read_until(channel.read, b"\n").split()[0].decode() == hashlib.md5(b"x" * 900_000).hexdigest()
        assert channel.read(20) is None
        assert channel.exit_status() == 0
    status, output, _ = host.run(BOSS, "head", "-c", "2000000", "/dev/zero", via="agent")
    assert (status, len(output)) == (0, 2_000_000)
    with pytest.raises(OperationalError) as failure:
        host.guests.open_command(address, CommandRequest((), terminal=(24, 80), via="agent"))
    assert failure.value.kind is Kind.CONFLICT
    wait_until(lambda: commands_in(host) == "1", "a clean guest")


def test_without_ssh_the_agent_steps_in_by_name(host: BenchHost) -> None:
    shell(
        host,
        "pid=$(cat /run/dropbear.pid 2>/dev/null || pidof dropbear | awk '{print $NF}'); kill -STOP $pid",
    )
    try:
        host.guests.forget(BOSS.id)
        with host.guests.open_command(host.address(BOSS), CommandRequest(("hostname",))) as channel:
            assert channel.via == "agent"
            assert "ssh is not possible" in channel.notice
            assert read_until(channel.read, b"\n") == b"boss\n"
        with pytest.raises(OperationalError) as failure:
            host.guests.open_command(host.address(BOSS), CommandRequest(("hostname",), via="ssh"))
        assert failure.value.kind is Kind.UNREACHABLE
    finally:
        shell(host, "kill -CONT $(pidof dropbear)", via="agent")
    wait_until(lambda: host.run(BOSS, "true", via="ssh")[0] == 0, "ssh again")


def test_a_stranger_with_the_guests_address_is_refused(host: BenchHost) -> None:
    stranger = replace(BOSS, instance_id="somebody-else")
    host.guests.forget(BOSS.id)
    with pytest.raises(OperationalError) as failure:
        collect(host.guests, host.address(stranger), CommandRequest(("true",), via="ssh"))
    assert failure.value.kind is Kind.FAULT
    assert "host key" in failure.value.brief
    assert host.run(BOSS, "true", via="ssh")[0] == 0


def test_a_new_controller_finds_the_kept_connection(host: BenchHost) -> None:
    host.run(BOSS, "true")
    assert len(kept(host)) >= 1
    before = shell(host, "pidof dropbear | wc -w")
    host.hypervisor.close()
    host.reopen()
    assert shell(host, "pidof dropbear | wc -w") == before
    host.guests.forget(BOSS.id)
    host.guests.forget(OPS.id)
    assert kept(host) == []


def kept(host: BenchHost) -> list[str]:
    return [path.name for path in (host.lab.paths.run / "forkbed" / "ssh").iterdir()]


def test_many_commands_at_once(host: BenchHost) -> None:
    results: list[int] = []

    def one(number: int) -> None:
        results.append(host.run(BOSS, "sh", "-c", f"exit {number}")[0])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(16))


def test_the_second_network_is_used_when_the_first_is_silent(host: BenchHost) -> None:
    assert shell(host, "hostname", OPS, via="ssh") == "ops\n"


def test_probes(host: BenchHost) -> None:
    def ask(**probe: object) -> tuple[bool, str]:
        answer = host.guests.probe(host.address(BOSS), ProbeSpec(**probe))  # type: ignore[arg-type]
        return answer.good, answer.reason

    shell(host, "mkdir -p /srv/www && echo hi >/srv/www/index.html && httpd -p 8080 -h /srv/www")
    assert ask(kind=ProbeKind.TCP, port=22) == (True, "")
    assert ask(kind=ProbeKind.TCP, port=81) == (False, "TCP port 81: connection refused")
    assert ask(kind=ProbeKind.HTTP, port=8080) == (True, "")
    good, reason = ask(kind=ProbeKind.HTTP, port=8080, path="/missing")
    assert not good
    assert "status 404, wanted 200" in reason
    assert ask(kind=ProbeKind.HTTP, port=8080, path="/missing", status=404) == (True, "")
    assert "no HTTP answer" in ask(kind=ProbeKind.HTTP, port=22)[1]
    assert ask(kind=ProbeKind.EXEC, command="test -d /srv/www") == (True, "")
    good, reason = ask(kind=ProbeKind.EXEC, command="echo no database >&2; exit 2")
    assert not good
    assert "exit status 2: no database" in reason
    started = time.monotonic()
    assert "no end after" in ask(kind=ProbeKind.EXEC, command="sleep 60")[1]
    assert time.monotonic() - started < 15
    assert "sleep 60" not in shell(host, "ps")


def test_set_up(host: BenchHost) -> None:
    commands = (
        SetupSpec("echo one >>/root/log"),
        SetupSpec("echo boot >>/root/log", SetupWhen.BOOT),
        SetupSpec("exec >/dev/null; echo two >>/root/log"),
    )
    for _ in range(2):
        host.guests.run_setup(host.address(BOSS), commands, Silence())
    assert shell(host, "cat /root/log") == "one\nboot\ntwo\n"
    with pytest.raises(OperationalError) as failure:
        host.guests.run_setup(host.address(BOSS), (SetupSpec("echo so it is; cat /nonexistent"),), Silence())
    assert "exit status 1" in failure.value.brief
    assert failure.value.details[1:] == (
        "so it is",
        "cat: can't open '/nonexistent': No such file or directory",
    )
    shell(host, "sync; rm -r /run/forkbed/setup")  # as a boot leaves it
    host.guests.run_setup(host.address(BOSS), commands, Silence())
    assert shell(host, "cat /root/log") == "one\nboot\ntwo\nboot\n"


def test_a_restart_is_noticed_and_reached_again(host: BenchHost) -> None:
    """Last in this module: a kept connection leads to a boot that is over."""
    host.run(OPS, "true")
    host.hypervisor.force_off(OPS.id)
    host.hypervisor.start(OPS.id)
    assert host.guests.await_reachable(host.address(OPS), 90, Silence()) == "ssh"
    assert shell(host, "cat /run/forkbed/seed-status", OPS) == "unchanged\n"


def test_a_machine_that_does_not_run_is_unreachable_in_time(host: BenchHost) -> None:
    host.hypervisor.force_off(OPS.id)
    started = time.monotonic()
    with pytest.raises(OperationalError) as failure:
        host.guests.await_reachable(host.address(OPS), 2, Silence())
    assert failure.value.kind is Kind.UNREACHABLE
    assert time.monotonic() - started < 10
    with pytest.raises(OperationalError) as failure:
        host.run(OPS, "true")
    assert failure.value.kind is Kind.UNREACHABLE
