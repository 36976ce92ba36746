"""The `forkbed` command: finds the command asked for, runs it, and makes its failure an exit status.

Every command's module is imported only when that command runs, since start-up time is felt.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING

from forkbed.base.errors import Kind, OperationalError
from forkbed.cli.failures import tell
from forkbed.cli.invocation import Invocation, begin

if TYPE_CHECKING:
    from cyclopts import App

INTERRUPTED = 130
BROKEN_PIPE = 141
_GARBAGE_THRESHOLD = 50_000  # importing modules makes much that stays, and looking through it is felt

# name: (what it does, where it is)
COMMANDS: dict[str, tuple[str, str]] = {
    "plan": ("Show what `up` would do.", "systems:plan"),
    "up": ("Bring a system up as its manifest declares.", "systems:up"),
    "down": ("Take a system down.", "systems:down"),
    "list": ("List the systems.", "systems:list_systems"),
    "show": ("Show a system: its machines, networks, and why it is as it is.", "systems:show"),
    "history": ("List a system's accepted manifests.", "systems:history"),
    "start": ("Start a system or a machine.", "power:start"),
    "stop": ("Shut a system or a machine down.", "power:stop"),
    "restart": ("Restart a system or a machine.", "power:restart"),
    "pause": ("Freeze a system or a machine in memory.", "power:pause"),
    "resume": ("Let what was paused go on.", "power:resume"),
    "exec": ("Run a command in a machine.", "guests:run"),
    "ssh": ("Log in to a machine, or run a command in it.", "guests:ssh"),
    "console": ("Use a machine's serial console.", "guests:console"),
    "logs": ("Show what a machine wrote to its serial console.", "guests:logs"),
    "copy": ("Copy files to or from a machine.", "copy:copy"),
    "snapshot": ("Keep one instant of a system.", "snapshots:snapshot"),
    "snapshots": ("List a system's snapshots.", "snapshots:snapshots"),
    "snapshot-delete": ("Delete a snapshot.", "snapshots:snapshot_delete"),
    "rollback": ("Go back to a snapshot; what that replaces is kept.", "snapshots:rollback"),
    "fork": ("Copy a running system at one instant, isolated.", "forks:fork"),
    "discard": ("Remove a fork.", "forks:discard"),
    "tree": ("Draw the lineage of systems, snapshots and forks.", "tree:tree"),
    "intents": ("Show what a fork tried to do to the world.", "intents:intents"),
    "fold": ("Shorten the chains of a system's disks.", "snapshots:fold"),
    "rehearse": ("Try an upgrade on a fork of a system.", "upgrades:rehearse"),
    "rehearsals": ("List a system's rehearsals, or show one.", "upgrades:rehearsals"),
    "diff": ("Compare two related systems.", "diff:diff"),
    "promote": ("Upgrade a system as it was rehearsed.", "upgrades:promote"),
    "revert": ("Go back to the generation before.", "upgrades:revert"),
    "generations": ("List a system's generations.", "upgrades:generations"),
    "maintenance": ("Keep a system's users off, or let them back.", "upgrades:maintenance"),
    "events": ("Show what happened.", "operations:events"),
    "operations": ("List, show or cancel operations.", "operations:app"),
    "image": ("Build, import, export, list, tag and remove images.", "images:app"),
    "gc": ("Remove what belongs to no system.", "general:gc"),
    "serve": ("Run the server that does the work.", "serve:serve"),
    "host": ("Make this host ready for Forkbed.", "host:app"),
    "doctor": ("Prove what this host can do.", "doctor:app"),
    "lab": ("Try Forkbed in a host of its own, in namespaces.", "lab:app"),
    "schema": ("Print the JSON Schema of manifests, recipes or steps.", "schema:app"),
    "version": ("Print the versions of the command and the server.", "general:version"),
    "completion": ("Print the completion script of a shell.", "general:completion"),
}

_OPTIONS = """Options of every command: `--json` (answers and errors as JSON), `--socket PATH` (the server's socket;
FORKBED_SOCKET), `--lab NAME` (the server in that lab; FORKBED_LAB)."""
_STATUSES = """Exit status: 0 done, 2 invalid, 3 not found, 4 conflict, 5 busy, 6 no answer, 7 refused because data
would be lost, 8 a tool or the host failed; `exec` and `ssh`: the command's own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    gc.set_threshold(_GARBAGE_THRESHOLD)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # notes and names may hold what the terminal cannot show
    try:
        if words and words[0] == "__complete":
            from forkbed.cli.completing import complete

            return complete(words[1:])
        return _run(begin(words))
    except OperationalError as error:
        return tell(error, as_json="--json" in words[: words.index("--") if "--" in words else None])
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain once more when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def make_app(command: str = "") -> App:
    """The commands, none of them imported yet. `command` is the one that will run: it brings its own help."""
    from cyclopts import App, Parameter

    from forkbed import __version__

    app = App(
        name="forkbed",
        help="Systems of real machines on one host: declare, bring up, use, fork, take down.",
        help_epilogue=_OPTIONS if command in COMMANDS else f"{_OPTIONS}\n\n{_STATUSES}",
        default_parameter=Parameter(negative=(), show_default=False),
        version=__version__,
        help_format="markdown",
        suppress_keyboard_interrupt=False,
    )
    for name, (summary, place) in COMMANDS.items():
        app.command(f"forkbed.cli.commands.{place}", name=name, help=None if name == command else summary)
    return app


def _run(invocation: Invocation) -> int:
    from cyclopts import CycloptsError

    try:
        result = make_app(invocation.tokens[0] if invocation.tokens else "")(
            invocation.tokens, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        words = error.command_chain or ()
        command = " ".join(("forkbed", *words))
        raise OperationalError(
            Kind.INVALID, command if words else "", _one_line(str(error)), f"see `{command} --help`"
        ) from error
    sys.stdout.flush()
    return result if isinstance(result, int) else 0


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
