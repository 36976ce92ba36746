"""`exec`, `ssh`, `console`, `logs`."""

from __future__ import annotations

import codecs
import sys
from itertools import chain
from typing import Annotated, Literal

from cyclopts import Parameter

from forkbed.api.client import Client
from forkbed.base.errors import Kind, OperationalError
from forkbed.cli.branch_view import fork_mark
from forkbed.cli.invocation import current
from forkbed.cli.output import emit, emit_line, say
from forkbed.cli.targets import MachineName, machine_name
from forkbed.cli.terminal import Escape, attach, terminal_size
from forkbed.ports.guests import CommandRequest

Machine = Annotated[str, Parameter(help="SYSTEM/MACHINE.")]
Command = Annotated[
    str, Parameter(help="The command and its arguments; not read by any shell.", allow_leading_hyphen=True)
]
User = Annotated[str, Parameter(name=["--user", "-u"], help="Run it as this user.")]
Via = Annotated[
    Literal["auto", "ssh", "agent"],
    Parameter(help="How to get in: by ssh, by the guest agent, or the first that works."),
]
Terminal = Annotated[bool, Parameter(name=["--tty", "-t"], help="Give the command a terminal.")]


def run(
    machine: Machine,
    /,
    *command: Command,
    user: User = "root",
    via: Via = "auto",
    tty: Terminal = False,
) -> int:
    """Run a command in a machine, with this command's standard input, output and error; its exit status is
    passed on.

    Streams may be of any size. Without a reachable ssh the guest agent is used, and what it cannot do is said.

    ```
    forkbed exec boss-ops/boss -- uname -a
    forkbed exec --user postgres boss-ops/boss -- psql -c 'select 1'
    tar -c . | forkbed exec boss-ops/boss -- tar -x -C /srv
    ```
    """
    if not command:
        raise OperationalError(
            Kind.INVALID,
            "forkbed exec",
            "there is no command",
            f"forkbed exec {machine} -- COMMAND, or forkbed ssh",
        )
    return _run(machine_name(machine), command, user=user, via=via, tty=tty)


def ssh(machine: Machine, /, *command: Command, user: User = "root", tty: Terminal = False) -> int:
    """Log in to a machine, or run a command line in it by the user's shell.

    Works for every machine of every network: no route to it is needed. `~.` at the beginning of a line ends a
    session that hangs. In a fork the session says so first, and so does the prompt, where the shell takes it from
    its environment: nothing in the guest is changed for it.

    ```
    forkbed ssh boss-ops/boss
    forkbed ssh boss-ops/boss -- 'journalctl -u app | tail'
    ```
    """
    line = ("sh", "-c", " ".join(command)) if command else ()
    return _run(
        machine_name(machine), line, user=user, via="auto", tty=tty or (not command and _on_terminal())
    )


def console(machine: Machine, /) -> int:
    """Use a machine's serial console. `^]` (Ctrl and ]) leaves it, and so does the end of piped input; a second
    user takes it over.

    ```
    forkbed console boss-ops/boss
    ```
    """
    name = machine_name(machine)
    with current().client() as client:
        _tell_fork(client, name)
        with client.open_console(name.system, name.machine) as stream:
            if _on_terminal():
                say(f"console of {name}; ^] leaves it")
            return attach(stream, raw=_on_terminal(), escape=Escape(b"\x1d"), leaves_at_end=True)


def logs(
    machine: Machine,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], help="Go on with what it writes.")] = False,
    tail: Annotated[int | None, Parameter(help="Only the last so many lines.")] = None,
) -> None:
    """Show what a machine wrote to its serial console, byte for byte; under `--json` as text in a document, with
    `--follow` one for each piece.

    ```
    forkbed logs boss-ops/boss --tail 50
    forkbed logs boss-ops/boss --follow
    ```
    """
    name = machine_name(machine)
    text = codecs.getincrementaldecoder("utf-8")("replace")  # a piece may end within a character
    with current().client() as client:
        if not follow:
            log = _last_lines(client.console_log(name.system, name.machine), tail)
            if not emit({"machine": str(name), "text": text.decode(log, final=True)}):
                _write(log)
            return
        pieces = client.follow_console_log(name.system, name.machine)
        for piece in chain([_last_lines(next(pieces, b""), tail)], pieces):
            if not emit_line({"machine": str(name), "text": text.decode(piece)}):
                _write(piece)


def _run(name: MachineName, command: tuple[str, ...], *, user: str, via: str, tty: bool) -> int:
    with current().client() as client:
        request = CommandRequest(
            command,
            user=user,
            terminal=terminal_size() if tty else None,
            via=via,
            mark=_tell_fork(client, name) if tty else "",
        )
        with client.open_command(name.system, name.machine, request) as stream:
            if stream.notice:
                say(f"forkbed: {name} over {stream.via}: {stream.notice}")
            escape = Escape(b"~.", line_start=True) if tty else None
            return attach(stream, raw=tty and sys.stdin.isatty(), escape=escape)


def _tell_fork(client: Client, name: MachineName) -> str:
    """Say it if the machine is a fork's; returns the mark for its prompt, "" if it is none."""
    summary = client.system(name.system).summary
    if not summary.fork_of:
        return ""
    say(f"forkbed: {name}: {fork_mark(summary)}")
    return f"fork of {summary.fork_of}"


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _last_lines(log: bytes, count: int | None) -> bytes:
    if count is None:
        return log
    return b"".join(log.splitlines(keepends=True)[-count:]) if count > 0 else b""


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
