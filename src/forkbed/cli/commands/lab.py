"""`forkbed lab`: a host in namespaces of its own, to try Forkbed without touching this machine."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import cyclopts

from forkbed import lab as labs
from forkbed.base.errors import Kind, OperationalError
from forkbed.cli.output import state, table
from forkbed.config.log import configure_log
from forkbed.config.settings import load_settings
from forkbed.drivers import processes

app = cyclopts.App(name="lab", help=__doc__)

_HEADINGS = ("LAB", "STATE", "LIBVIRT", "SERVE", "PORTS ON 127.0.0.1", "OWNER")
Json = Annotated[bool, cyclopts.Parameter(name="--json", help="For programs.")]
Name = Annotated[str, cyclopts.Parameter(name=["--name", "-n"], help="Which lab.")]


@app.command
def up(*, name: Name = labs.DEFAULT_NAME, serve: bool = False, as_json: Json = False) -> None:
    """Start the lab; nothing happens if it runs already.

    Example: `forkbed lab up --serve`, then `forkbed lab exec -- forkbed list`

    Parameters
    ----------
    serve
        Start `forkbed serve` in it too.
    """
    lab_dir = _lab_dir()
    lab = labs.up(lab_dir, name)
    if serve:
        lab.start_serve()
    if as_json:
        print(json.dumps(asdict(labs.view(lab_dir, name)), indent=2))
        return
    print(f"lab {name} is up")
    print(f"  run commands in it:  forkbed lab exec{_option(name)} -- COMMAND")
    print(f"  libvirt:             virsh -c '{lab.libvirt_uri}'")
    if serve:
        print(f"  API socket:          {lab.api_socket}")


@app.command
def down(*, name: Name = labs.DEFAULT_NAME, keep_state: bool = False, as_json: Json = False) -> None:
    """End the lab and everything in it, and remove its files.

    Example: `forkbed lab down --keep-state`

    Parameters
    ----------
    keep_state
        Keep disks and database for the next `up`.
    """
    if not labs.down(_lab_dir(), name, keep_state=keep_state):
        raise OperationalError(
            Kind.NOT_FOUND, f"lab {name}", "there is none of that name", "`forkbed lab status` shows the labs"
        )
    print(json.dumps({"name": name, "state_kept": keep_state}) if as_json else f"lab {name} is down")


@app.command
def status(
    *,
    name: Annotated[str | None, cyclopts.Parameter(name=["--name", "-n"], help="Only this lab.")] = None,
    as_json: Json = False,
) -> None:
    """Show which labs there are, whether they run, and which ports they publish on 127.0.0.1.

    Example: `forkbed lab status --json`
    """
    lab_dir = _lab_dir()
    views = [labs.view(lab_dir, each) for each in ([name] if name else labs.names(lab_dir))]
    if as_json:
        print(json.dumps([asdict(view) for view in views], indent=2))
    else:
        table(_HEADINGS, map(_row, views), empty="there is no lab; start one with `forkbed lab up`")


@app.command(name="exec")
def execute(
    *command: Annotated[str, cyclopts.Parameter(allow_leading_hyphen=True)],
    name: Name = labs.DEFAULT_NAME,
    world: bool = False,
) -> None:
    """Run a command in the lab, with this terminal, in the current directory; its exit status is passed on.

    Example: `forkbed lab exec -- virsh list`

    Parameters
    ----------
    command
        The command; a shell if left out.
    world
        Run it in the network that stands for the outside, beside the lab's host.
    """
    lab = labs.running(_lab_dir(), name)
    processes.become(lab.command(command or (os.environ.get("SHELL", "/bin/sh"),), world=world))


def _lab_dir() -> Path:
    configure_log(os.environ)
    return load_settings(os.environ).lab_dir


def _option(name: str) -> str:
    return "" if name == labs.DEFAULT_NAME else f" --name {name}"


def _row(view: labs.LabView) -> tuple[str, ...]:
    ports = [f"{port['port']}/{port['protocol']}{_problem(port)}" for port in view.forwards]
    return (
        view.name,
        state("running" if view.running else "stopped"),
        "answers" if view.libvirt_answers else "-",
        "answers" if view.serve_answers else "-",
        ", ".join(ports) or "-",
        str(view.owner or "-"),
    )


def _problem(port: dict[str, object]) -> str:
    return f" ({port['problem']})" if port["problem"] else ""
