"""The lab as a host: libvirt and QEMU work in it, it can be reached, and one kill leaves nothing behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import socket
import struct
import sys
import termios
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forkbed import lab as labs
from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import liveness, processes

ROOT = Path(__file__).parents[3]
DOMAIN = """
<domain type='qemu'>
  <name>tiny</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><serial type='file'><source path='/var/log/libvirt/tiny.log'/></serial></devices>
</domain>
"""
ECHO = """
import socket, sys, threading
kind = socket.SOCK_DGRAM if sys.argv[1] == "udp" else socket.SOCK_STREAM
server = socket.socket(socket.AF_INET, kind)
server.bind(("127.0.0.1", 0))
if kind == socket.SOCK_STREAM: server.listen(5)
print(server.getsockname()[1], flush=True)
def answer(peer):
    with peer:
        data = b""
        while part := peer.recv(65536): data += part
        peer.sendall(data[::-1])
while True:
    if kind == socket.SOCK_DGRAM:
        data, sender = server.recvfrom(65536)
        server.sendto(data[::-1], sender)
    else:
        threading.Thread(target=answer, args=(server.accept()[0],)).start()
"""


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def running_in(lab: labs.Lab, *argv: str) -> Iterator[processes.Process]:
    process = processes.spawn(lab.command(argv), stdout=processes.PIPE, own_session=True)
    try:
        yield process
    finally:
        processes.kill_group(process)
        assert process.stdout is not None
        process.stdout.close()


def virsh(lab: labs.Lab, *words: str, input: bytes | None = None) -> str:  # noqa: A002
    return processes.run(["virsh", "-q", "-c", lab.libvirt_uri, *words], input=input).text.strip()


@contextlib.contextmanager
def logs_shown_after_failure(lab: labs.Lab, machine: str) -> Iterator[None]:
    """Libvirt ends a machine that it cannot take back, and tells why only in its logs, which go with the lab."""
    try:
        yield
    except BaseException:
        for log in (lab.paths.log, lab.paths.root / "log-libvirt" / "qemu" / f"{machine}.log"):
            if log.exists():
                print(f"{log.name}:", *processes.last_lines(log.read_bytes()), sep="\n")
        raise


def test_libvirt_answers_outside_and_starts_a_machine(lab: labs.Lab) -> None:
    virsh(lab, "create", "/dev/stdin", input=DOMAIN.encode())
    try:
        assert virsh(lab, "domstate", "tiny") == "running"
        assert "tiny" in lab.run(["ps", "ax", "-o", "args"]).text
        assert "tiny" in lab.run(["virsh", "-q", "list", "--name"]).text
    finally:
        virsh(lab, "destroy", "tiny")


def test_a_killed_libvirtd_comes_back_and_its_machine_stays(lab: labs.Lab) -> None:
    with logs_shown_after_failure(lab, "tiny"):
        virsh(lab, "create", "/dev/stdin", input=DOMAIN.encode())
        try:
            before = lab.run(["pidof", "libvirtd"]).text.split()
            guest = lab.run(["pidof", "qemu-system-x86_64"]).text
            lab.run(["kill", "-9", *before])
            wait_until(
                lambda: lab.run(["pidof", "libvirtd"], accept=None).text.split() not in ([], before),
                "a new libvirtd",
            )
            wait_until(lambda: labs.view(lab.paths.root.parent, lab.name).libvirt_answers, "libvirt answers")
            # The state is known from a file at once; the emulator is asked only when it has been taken back.
            assert "running" in virsh(lab, "qemu-monitor-command", "--hmp", "tiny", "info status")
            assert virsh(lab, "domstate", "tiny") == "running"
            assert lab.run(["pidof", "qemu-system-x86_64"]).text == guest
        finally:
            virsh(lab, "destroy", "tiny")


def test_the_lab_is_a_host_of_its_own(lab: labs.Lab) -> None:
    def namespace(kind: str) -> tuple[str, str]:
        return os.readlink(f"/proc/self/ns/{kind}"), lab.run(
            ["readlink", f"/proc/self/ns/{kind}"]
        ).text.strip()

    for kind in ("net", "mnt", "pid", "uts", "ipc"):
        outside, inside = namespace(kind)
        assert outside != inside, kind
    assert lab.run(["hostname"]).text.strip() == f"lab-{lab.name}"
    links = {entry["ifname"] for entry in json.loads(lab.run(["ip", "-json", "link"]).text)}
    others = links - {"lo", "eth0"}
    assert {"lo", "eth0"} <= links and all(name.startswith("fb") for name in others), "ours, of other tests"
    assert set(lab.run(["sh", "-c", "ls /sys/class/net"]).text.split()) == links


def test_what_is_written_in_the_lab_is_not_on_the_host(lab: labs.Lab) -> None:
    name = f"mark-{os.getpid()}"
    for directory in ("/run", "/var/lib/forkbed", "/var/lib/libvirt", "/etc/libvirt"):
        lab.run(["touch", f"{directory}/{name}"])
        assert not (Path(directory) / name).exists()
    assert (lab.paths.run / name).exists()
    assert (lab.paths.state / name).exists()


def test_libvirt_waits_for_no_disk_at_each_change_of_a_machine(lab: labs.Lab) -> None:
    found = lab.run(["findmnt", "--noheadings", "--output", "FSTYPE", "/run/libvirt/qemu"])
    assert found.text.strip() == "tmpfs", "as a real host's /run is"


def test_the_world_beside_the_host_answers(lab: labs.Lab) -> None:
    assert lab.run(["ping", "-c", "1", "-W", "2", "198.18.0.254"]).status == 0
    assert lab.run(["ping", "-c", "1", "-W", "2", "198.18.0.1"], world=True).status == 0
    addresses = json.loads(lab.run(["ip", "-json", "-4", "address", "show", "eth0"], world=True).text)
    assert addresses[0]["addr_info"][0]["local"] == "198.18.0.254"


def test_taps_made_in_the_lab_speak_no_ipv6(lab: labs.Lab) -> None:
    lab.run(["ip", "tuntap", "add", "tap-test", "mode", "tap"])
    try:
        lab.run(["ip", "link", "set", "tap-test", "up"])
        assert lab.run(["ip", "-6", "address", "show", "tap-test"]).text == ""
    finally:
        lab.run(["ip", "link", "del", "tap-test"])


def test_the_outside_network_can_be_entered_for_downloads(lab: labs.Lab) -> None:
    inside = lab.run(["sh", "-c", "nsenter --net=/run/forkbed-lab/outside-net readlink /proc/self/ns/net"])
    assert inside.text.strip() == os.readlink("/proc/self/ns/net")


def test_settings_of_the_host_stay_outside(lab: labs.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORKBED_STATE_DIR", "/host/state")
    seen = lab.run(["env"]).text.splitlines()
    assert "FORKBED_STATE_DIR=/host/state" not in seen
    assert "FORKBED_TRANSIT_POOL=198.19.0.0/16" in seen


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_published_port_appears_on_the_real_loopback(lab: labs.Lab, protocol: str) -> None:
    message = os.urandom(1_500_000 if protocol == "tcp" else 1200)
    with running_in(lab, sys.executable, "-c", ECHO, protocol) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        publish(lab, [{"protocol": protocol, "host_address": "127.0.0.1", "host_port": port}])
        try:
            for _ in range(2):
                assert exchange(protocol, port, message) == message[::-1]
        finally:
            publish(lab, [])
    with pytest.raises(OSError):
        exchange(protocol, port, message, timeout_s=0.5)


def publish(lab: labs.Lab, ports: list[dict[str, object]]) -> None:
    lab.paths.published.parent.mkdir(exist_ok=True)
    draft = lab.paths.published.with_suffix(".new")
    draft.write_text(json.dumps(ports))
    draft.rename(lab.paths.published)
    wanted = [entry["host_port"] for entry in ports]

    def followed() -> bool:
        forwards = labs.view(lab.paths.root.parent, lab.name).forwards
        return [forward["port"] for forward in forwards if not forward["problem"]] == wanted

    wait_until(followed, f"ports {wanted} are forwarded")


def exchange(protocol: str, port: int, message: bytes, timeout_s: float = 10.0) -> bytes:
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as client:
        client.settimeout(timeout_s)
        client.connect(("127.0.0.1", port))
        client.sendall(message)
        if protocol == "udp":
            return client.recv(65536)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while part := client.recv(65536):
            answer += part
        return answer


def test_a_port_that_is_taken_is_reported(lab: labs.Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        lab.paths.published.parent.mkdir(exist_ok=True)
        lab.paths.published.write_text(
            json.dumps([{"protocol": "tcp", "host_address": "127.0.0.1", "host_port": port}])
        )
        wait_until(
            lambda: any(
                forward["port"] == port and "in use" in str(forward["problem"])
                for forward in labs.view(lab.paths.root.parent, lab.name).forwards
            ),
            "the collision is reported",
        )
    publish(lab, [])


def test_a_command_in_the_lab_passes_its_status_and_streams_through(lab: labs.Lab) -> None:
    assert lab.run(["sh", "-c", "cat; echo oops >&2; exit 7"], input=b"in", accept=(7,)).stdout == b"in"
    with pytest.raises(OperationalError, match="exit status 7: oops"):
        lab.run(["sh", "-c", "echo oops >&2; exit 7"])


def test_up_twice_is_one_lab_and_down_leaves_nothing(lab_dir: Path) -> None:
    name = f"test-twice-{os.getpid()}"
    try:
        first = labs.up(lab_dir, name, bound=True)
        assert labs.up(lab_dir, name, bound=True) == first
        second = labs.view(lab_dir, name)
        assert second.running and second.libvirt_answers and second.owner == os.getpid()
        daemon = first.run(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo started"])
        assert daemon.text == "started\n"
        assert labs.down(lab_dir, name)
        assert not liveness.is_alive(first.init)
        assert not first.paths.root.exists()
        assert_no_process_mentions(str(first.paths.root))
        assert not labs.down(lab_dir, name)
        with pytest.raises(OperationalError) as caught:
            labs.running(lab_dir, name)
        assert caught.value.kind is Kind.NOT_FOUND
    finally:
        labs.down(lab_dir, name)


def test_state_can_outlive_the_lab(lab_dir: Path) -> None:
    name = f"test-keep-{os.getpid()}"
    try:
        first = labs.up(lab_dir, name, bound=True)
        first.run(["sh", "-c", "echo kept > /var/lib/forkbed/mark; echo gone > /run/mark"])
        uuid = first.run(["virsh", "capabilities"]).text.split("<uuid>")[1][:36]
        labs.down(lab_dir, name, keep_state=True)
        again = labs.up(lab_dir, name, bound=True)
        assert again.run(["cat", "/var/lib/forkbed/mark"]).text == "kept\n"
        assert again.run(["cat", "/run/mark"], accept=None).status == 1
        assert again.run(["virsh", "capabilities"]).text.split("<uuid>")[1][:36] == uuid
    finally:
        labs.down(lab_dir, name)


def test_a_lab_dies_with_its_killed_owner_and_is_swept(lab_dir: Path) -> None:
    prefix = f"test-owned-{os.getpid()}-"
    code = (
        "import sys; from pathlib import Path; from forkbed import lab\n"
        "with lab.temporary(Path(sys.argv[1]), sys.argv[2]) as made:\n"
        "    print('made', made.name, made.init, flush=True); sys.stdin.read()"
    )
    owner = processes.spawn(
        [sys.executable, "-c", code, str(lab_dir), prefix], stdin=processes.PIPE, stdout=processes.PIPE
    )
    assert owner.stdout is not None and owner.stdin is not None
    with owner, owner.stdout, owner.stdin:
        name = init = ""
        for line in owner.stdout:  # the log comes first
            if line.startswith(b"made "):
                _, name, init = line.decode().split()
                break
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
    wait_until(lambda: not liveness.is_alive(liveness.ProcessId.parse(init)), "the lab has died")
    assert labs.sweep(lab_dir, prefix) == (name,)
    assert name not in labs.names(lab_dir)
    assert_no_process_mentions(name)


def assert_no_process_mentions(text: str) -> None:
    def mentioned() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if text in words and path.parent.name != str(os.getpid()):
                    found.append(words)
        return found

    wait_until(lambda: not mentioned(), f"no process mentions {text}: {mentioned()}")


def test_the_library_can_fetch_over_http_through_a_published_port(lab: labs.Lab) -> None:
    (lab.paths.state / "page").write_text("hello from the lab")
    with running_in(
        lab,
        sys.executable,
        "-u",
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        "--directory",
        "/var/lib/forkbed",
        "0",
    ) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().split(b" port ")[1].split()[0])
        publish(lab, [{"protocol": "tcp", "host_address": "127.0.0.1", "host_port": port}])
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/page", timeout=10) as answer:
                assert answer.read() == b"hello from the lab"
        finally:
            publish(lab, [])


def test_a_command_in_the_lab_has_the_terminal(lab: labs.Lab) -> None:
    terminal, inside = pty.openpty()
    try:
        script = "test -t 0 && test -t 1 && stty size && exit 6"
        forkbed = [sys.executable, "-m", "forkbed.cli.main", "lab", "exec", "--name", lab.name]
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        process = processes.spawn(
            [*forkbed, "--", "sh", "-c", script], stdin=inside, stdout=inside, stderr=inside, own_session=True
        )
        assert process.wait(20) == 6
        assert os.read(terminal, 4096).split() == [b"33", b"77"]
    finally:
        os.close(terminal)
        os.close(inside)
