"""Run a machine's set-up commands, each once: in the life of its root volume, or in each boot.

A mark in the guest says which have run, because only the guest's own disk shares the fate of what they changed. The
mark's name is made of the command, so a changed command runs again.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.systems.spec import SetupSpec, SetupWhen
from forkbed.drivers.guests.scripts import quoted
from forkbed.drivers.processes import last_lines
from forkbed.ports.guests import CommandChannel
from forkbed.ports.progress import Progress

MARK_DIRECTORIES = {
    SetupWhen.ONCE: "/var/lib/forkbed/setup",
    SetupWhen.BOOT: "/run/forkbed/setup",
}
_LOOK_TIMEOUT_S = 30.0
_POLL_S = 0.5
_SHOWN_CHARACTERS = 72
_KEPT_BYTES = 16 * 1024

OpenCommand = Callable[[tuple[str, ...]], AbstractContextManager[CommandChannel]]
"""Starts a command in the guest as root."""


def mark_paths(commands: Sequence[SetupSpec]) -> list[str]:
    """Where each command's mark is. The same command given twice runs twice, so it has two marks."""
    seen: Counter[tuple[str, str]] = Counter()
    paths = []
    for setup in commands:
        seen[setup.when, setup.command] += 1
        text = f"{setup.when}\0{seen[setup.when, setup.command]}\0{setup.command}"
        paths.append(f"{MARK_DIRECTORIES[setup.when]}/{hashlib.sha256(text.encode()).hexdigest()[:32]}")
    return paths


def setup_script(setup: SetupSpec, mark: str) -> str:
    """Shell text that runs the command and marks it as done.

    What a once-only command wrote is on disk before its mark, so that a crash never leaves the mark alone.
    """
    durable = "sync && " if setup.when is SetupWhen.ONCE else ""
    directory = MARK_DIRECTORIES[setup.when]
    run = quoted(("/bin/sh", "-c", setup.command))
    return f"{run} || exit $?; {durable}mkdir -p {directory} && : >{mark}"


def run_setup(
    machine_name: str, open_command: OpenCommand, commands: Sequence[SetupSpec], progress: Progress
) -> None:
    """Run what has not run yet, in order. FAULT with the command's last words if one fails or takes too long."""
    if not commands:
        return
    marks = mark_paths(commands)
    done = _present_marks(machine_name, open_command)
    for number, (setup, mark) in enumerate(zip(commands, marks, strict=True), 1):
        progress.check_cancelled()
        if mark.rpartition("/")[2] not in done:
            title = f"set-up {number}/{len(commands)}: {_first_line(setup.command)}"
            progress.tell(title, done=(number - 1) / len(commands))
            _run(f"machine {machine_name}", title, open_command, setup_script(setup, mark), setup, progress)


def _present_marks(machine_name: str, open_command: OpenCommand) -> set[str]:
    """The names of the marks that are in the guest; a name says by itself which kind it is."""
    listing = f"ls {' '.join(MARK_DIRECTORIES.values())} 2>/dev/null; :"
    with open_command(("/bin/sh", "-c", listing)) as channel:
        channel.close_input()
        ended, output = _follow(channel, time.monotonic() + _LOOK_TIMEOUT_S, lambda _: None)
        if not ended or channel.exit_status() != 0:
            raise OperationalError(
                Kind.UNREACHABLE, f"machine {machine_name}", "cannot tell which set-up commands have run"
            )
    return set(output.decode(errors="replace").split())


def _run(
    subject: str,
    title: str,
    open_command: OpenCommand,
    script: str,
    setup: SetupSpec,
    progress: Progress,
) -> None:
    def tell(output: bytes) -> None:
        progress.check_cancelled()
        lines = last_lines(output)
        progress.tell(f"{title} | {_cut(lines[-1])}" if lines else title)

    with open_command(("/bin/sh", "-c", script)) as channel:
        channel.close_input()
        ended, output = _follow(channel, time.monotonic() + setup.timeout_s, tell)
        status = channel.exit_status() if ended else None
    if status == 0:
        return
    how = f"exit status {status}" if ended else f"no end after {setup.timeout_s:g} s"
    raise OperationalError(
        Kind.FAULT,
        subject,
        f"{title} failed: {how}",
        "correct the command in the manifest, or the guest by `forkbed ssh`, and run `up` again",
        details=(f"command: {_cut(setup.command, 500)}", *last_lines(output)),
    )


def _follow(channel: CommandChannel, deadline: float, tell: Callable[[bytes], None]) -> tuple[bool, bytes]:
    """Read to the end or the deadline; returns whether it ended, and the end of all output."""
    output, told = b"", 0.0
    while time.monotonic() < deadline:
        received = channel.read(min(_POLL_S, max(0.0, deadline - time.monotonic())))
        if received is None:
            return True, output
        output = (output + received[1])[-_KEPT_BYTES:]
        if time.monotonic() - told >= _POLL_S:
            told = time.monotonic()
            tell(output)
    return False, output


def _first_line(command: str) -> str:
    lines = [line.strip() for line in command.splitlines() if line.strip()]
    return _cut(lines[0]) if lines else ""


def _cut(text: str, length: int = _SHOWN_CHARACTERS) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
