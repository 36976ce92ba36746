"""Commands that use real standard streams, as processes: exec, ssh, console, Ctrl-C."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forkbed.base.errors import Kind
from forkbed.core.networks.intents import IntentKind
from forkbed.core.operations.records import OperationStatus, StepStatus
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.engine.branching import TreeKind, TreeNode
from forkbed.engine.requests import UpOptions
from forkbed.ports.guests import CommandRequest
from tests.unit.api.fake import FakeController
from tests.unit.cli.conftest import Cli, ProcessCli, command_line, environment_of


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def _started(socket: Path, *words: str, **streams: int) -> Iterator[subprocess.Popen[bytes]]:
    options: dict[str, int] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    process = subprocess.Popen(command_line(*words), env=environment_of(socket), **{**options, **streams})  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class Terminal:
    """A pseudo-terminal with a command on it."""

    def __init__(self, socket: Path, *words: str) -> None:
        self._outer, inner = pty.openpty()
        self._inner = inner
        termios.tcsetwinsize(inner, (33, 99))
        self.seen = b""
        self.process = subprocess.Popen(
            command_line(*words),
            env={**environment_of(socket), "TERM": "xterm"},
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )

    def type(self, keys: bytes) -> None:
        os.write(self._outer, keys)

    def expect(self, text: bytes) -> None:
        deadline = time.monotonic() + 15
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self._outer], [], [], 0.1)[0]:
                self.seen += os.read(self._outer, 4096)

    def end(self) -> int:
        deadline = time.monotonic() + 15
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.seen
            if select.select([self._outer], [], [], 0.1)[0]:
                self.seen += os.read(self._outer, 4096)
        return self.process.returncode

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self._inner)[3] & termios.ICANON

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._outer)
        os.close(self._inner)


@pytest.fixture
def terminal(socket: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*words: str) -> Terminal:
        opened.append(Terminal(socket, *words))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_exec_passes_streams_and_status(process_cli: ProcessCli, controller: FakeController) -> None:
    script = 'read x; echo "$FORKBED_USER got $x"; echo oops >&2; exit 3'
    done = process_cli("exec", "--user", "app", "boss-ops/boss", "--", "sh", "-c", script, stdin=b"word\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"app got word\n", b"oops\n")


def test_exec_takes_options_of_the_command_after_the_dashes(process_cli: ProcessCli) -> None:
    done = process_cli("exec", "boss-ops/boss", "--", "echo", "--json", "--user", "-x", "--", "--help")
    assert done.stdout == b"--json --user -x -- --help\n"


def test_exec_says_what_the_agent_cannot_do(process_cli: ProcessCli, controller: FakeController) -> None:
    controller.machine_notice = "runs as root only"
    done = process_cli("exec", "boss-ops/boss", "--", "true")
    assert done.stderr == b"forkbed: boss-ops/boss over agent: runs as root only\n"


def test_fifty_mebibytes_through_the_command_line(process_cli: ProcessCli) -> None:
    data = os.urandom(1024 * 1024) * 50
    done = process_cli("exec", "boss-ops/boss", "--", "cat", stdin=data)
    assert done.returncode == 0
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_exec_into_a_pipe_that_closes(socket: Path, controller: FakeController) -> None:
    with _started(socket, "exec", "boss-ops/boss", "--", "yes") as process:
        assert process.stdout and process.stderr
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert process.wait(15) == 141
        assert process.stderr.read() == b""
    _eventually(lambda: controller.commands[-1].killed)


def test_an_interrupt_ends_the_remote_command(socket: Path, controller: FakeController) -> None:
    with _started(socket, "exec", "boss-ops/boss", "--", "sleep", "60") as process:
        _eventually(lambda: bool(controller.commands))
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 130
    _eventually(lambda: controller.commands[-1].killed)


def test_ssh_runs_a_line_by_a_shell(process_cli: ProcessCli) -> None:
    done = process_cli("ssh", "boss-ops/boss", "--", "echo a | tr a b; exit 4")
    assert (done.returncode, done.stdout) == (4, b"b\n")


def test_ssh_on_a_terminal(terminal: Callable[..., Terminal]) -> None:
    session = terminal("ssh", "boss-ops/boss")
    session.expect(b"# " if os.getuid() == 0 else b"$ ")
    assert session.is_raw()
    session.type(b"stty size; echo do''ne\r")
    session.expect(b"33 99")
    session.type(b"exit 5\r")
    assert session.end() == 5
    assert not session.is_raw()


def test_a_hung_session_is_left_with_tilde_and_dot(
    terminal: Callable[..., Terminal], controller: FakeController
) -> None:
    session = terminal("ssh", "boss-ops/boss")
    session.expect(b"# " if os.getuid() == 0 else b"$ ")
    session.type(b"\r")
    session.type(b"~.")
    assert session.end() == 0
    assert not session.is_raw()
    _eventually(lambda: controller.commands[-1].killed)


def test_the_console_is_left_with_its_escape(
    terminal: Callable[..., Terminal], controller: FakeController
) -> None:
    session = terminal("console", "boss-ops/boss")
    session.expect(b"login: ")
    session.type(b"root\r")
    session.expect(b"root\r")
    session.type(b"\x1d")
    assert session.end() == 0
    _eventually(lambda: controller.consoles[-1].closed)


@pytest.mark.parametrize("words", [("ssh", "try/boss"), ("exec", "-t", "try/boss", "--", "sh")])
def test_a_session_in_a_fork_begins_with_saying_so(
    terminal: Callable[..., Terminal], controller: FakeController, words: tuple[str, ...]
) -> None:
    controller.make_fork("try", controller.systems()[0])
    session = terminal(*words)
    session.expect(b"# " if os.getuid() == 0 else b"$ ")
    assert b"forkbed: try/boss: fork of boss-ops, cut " in session.seen
    assert b"; isolated\r\n" in session.seen
    request = controller.calls[-1][1]
    assert isinstance(request, CommandRequest)
    assert request.mark == "fork of boss-ops"
    session.type(b"exit\r")
    assert session.end() == 0


def test_the_console_of_a_fork_begins_with_saying_so(
    process_cli: ProcessCli, controller: FakeController
) -> None:
    controller.make_fork("try", controller.systems()[0])
    done = process_cli("console", "try/boss", stdin=b"root\r")
    assert done.stderr.startswith(b"forkbed: try/boss: fork of boss-ops, cut ")
    assert b"fork" not in process_cli("console", "boss-ops/boss", stdin=b"root\r").stderr


def test_a_command_in_a_fork_has_its_standard_error_to_itself(
    process_cli: ProcessCli, controller: FakeController
) -> None:
    controller.make_fork("try", controller.systems()[0])
    assert process_cli("exec", "try/boss", "--", "true").stderr == b""
    assert process_cli("ssh", "try/boss", "--", "true").stderr == b""


def test_the_console_ends_with_its_piped_input(process_cli: ProcessCli, controller: FakeController) -> None:
    done = process_cli("console", "boss-ops/boss", stdin=b"root\r")
    assert done.returncode == 0
    assert b"root" in done.stdout
    _eventually(lambda: controller.consoles[-1].closed)


def test_following_logs_and_events(socket: Path, controller: FakeController) -> None:
    controller.log = b"one\n"
    with _started(socket, "logs", "boss-ops/boss", "--follow") as process:
        assert process.stdout
        assert process.stdout.readline() == b"one\n"
        controller.log += b"two\n"
        assert process.stdout.readline() == b"two\n"
    controller.happen("first")
    with _started(socket, "events", "--follow", "--json") as process:
        assert process.stdout
        assert b'"first"' in process.stdout.readline()
        controller.happen("second")
        assert b'"second"' in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 130


def test_intents_are_followed(socket: Path, controller: FakeController) -> None:
    controller.make_fork("try", controller.systems()[0])
    controller.attempt(IntentKind.TCP, port=22)
    with _started(socket, "intents", "try", "--follow") as process:
        assert process.stdout
        assert process.stdout.readline().endswith(b"  boss  tcp 203.0.113.7:22: hi\n")
        controller.attempt(IntentKind.DNS, port=53, name="example.org", type="A")
        assert process.stdout.readline().endswith(b"  boss  dns A example.org\n")
        controller.fork_summaries.clear()
        assert process.wait(15) == Kind.NOT_FOUND.exit_status
    controller.make_fork("try", controller.systems()[0])
    with _started(socket, "intents", "try", "-f", "--json", "--tail", "1") as process:
        assert process.stdout
        assert json.loads(process.stdout.readline())["cursor"] == 2


def test_logs_for_programs_are_text(socket: Path, controller: FakeController) -> None:
    controller.log = "größe\n".encode()
    with _started(socket, "logs", "boss-ops/boss", "--follow", "--json") as process:
        assert process.stdout
        assert json.loads(process.stdout.readline()) == {"machine": "boss-ops/boss", "text": "größe\n"}


def test_what_the_terminal_cannot_show_is_escaped(socket: Path, controller: FakeController) -> None:
    controller.roots = [TreeNode(TreeKind.SYSTEM, "boss-ops", 1.0, "up", 0, "größer")]
    environment = {**environment_of(socket), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command_line("tree"), env=environment, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(b"gr\\xf6\\xdfer\n")


def test_an_interrupt_ends_only_the_waiting(socket: Path, controller: FakeController) -> None:
    controller.auto_succeed = False
    with _started(socket, "down", "boss-ops") as process:
        _eventually(lambda: bool(controller.operations(system=None, active_only=True, limit=1)))
        controller.advance("op1", step=("stop", "boss", StepStatus.STARTED, "asked it to shut down"))
        assert process.stderr
        assert process.stderr.readline() == "boss: stop …: asked it to shut down\n".encode()
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 130
        said = process.stderr.read().decode()
    assert "operation op1 goes on without this command" in said
    assert "forkbed operations cancel op1" in said
    assert not controller.operation("op1").operation.status.ended


def test_progress_as_lines(socket: Path, controller: FakeController) -> None:
    controller.auto_succeed = False
    with _started(socket, "start", "boss-ops") as process:
        _eventually(lambda: bool(controller.operations(system=None, active_only=True, limit=1)))
        controller.advance("op1", step=("network", "control", StepStatus.ALREADY, ""))
        controller.advance("op1", step=("start", "boss", StepStatus.FAILED, "no room"))
        controller.advance("op1", status=OperationStatus.CANCELLED)
        _, said = process.communicate(timeout=15)
    assert process.returncode == Kind.CONFLICT.exit_status
    assert said.decode().splitlines()[:2] == [
        "boss: start failed: no room",
        "forkbed: operation op1: it was cancelled",
    ]


def test_progress_on_a_terminal(terminal: Callable[..., Terminal], controller: FakeController) -> None:
    controller.auto_succeed = False
    session = terminal("start", "boss-ops")
    _eventually(lambda: bool(controller.operations(system=None, active_only=True, limit=1)))
    controller.advance("op1", step=("ready", "boss", StepStatus.STARTED, "waiting for port 22"))
    session.expect(b"waiting for port 22")
    controller.advance("op1", step=("ready", "boss", StepStatus.CHANGED, ""))
    controller.advance("op1", status=OperationStatus.SUCCEEDED)
    session.expect(b"succeeded")
    assert session.end() == 0


def test_the_stream_of_an_image_goes_to_standard_output(process_cli: ProcessCli) -> None:
    done = process_cli("image", "export", "boss", "-", "--format", "raw")
    assert done.stdout == b"raw" * 1_000_000


def test_answers_and_words_do_not_mix(cli: Cli) -> None:
    answer = cli("image", "list", "--json")
    assert answer.err == ""


def test_a_manifest_from_standard_input(process_cli: ProcessCli, controller: FakeController) -> None:
    done = process_cli("plan", "-", stdin=b"version: 1\nsystem: boss-ops\n")
    assert done.returncode == 0, done.stderr
    assert controller.calls == [
        ("plan", (ManifestBundle("-", "version: 1\nsystem: boss-ops\n"), UpOptions()))
    ]
