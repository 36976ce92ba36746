"""`forkbed host`: make this machine ready to run Forkbed in earnest."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, assert_never

import cyclopts

from forkbed.base.errors import Kind, OperationalError
from forkbed.config.log import configure_log
from forkbed.config.settings import load_settings
from forkbed.drivers.hostsetup.host import Host
from forkbed.drivers.hostsetup.packages import DebianPackages
from forkbed.drivers.hostsetup.plan import (
    InstallPackages,
    Left,
    MakeDirectory,
    RemoveDirectory,
    RemovePackages,
    RestoreFile,
    SetSysctl,
    Step,
    UndoStep,
    WriteBlock,
    WriteFile,
)
from forkbed.drivers.hostsetup.wanted import wanted_host
from forkbed.lab.session import forkbed_program

app = cyclopts.App(name="host", help="Make this machine ready to run Forkbed in earnest.")
_THIS_HOST = Path("/")


@app.command
def prepare(
    *,
    undo: bool = False,
    dry_run: bool = False,
    as_json: Annotated[bool, cyclopts.Parameter(name="--json", help="For programs.")] = False,
    root: Annotated[Path, cyclopts.Parameter(show=False)] = _THIS_HOST,
) -> None:
    """Install and set what Forkbed needs on a Debian host: packages, kernel settings, AppArmor rules, a service.

    Each change is shown like a diff. What is there already stays as it is; what is done is noted, so that it can be
    taken back. Running machines and data are never touched.

    Example: `forkbed host prepare --dry-run`

    Parameters
    ----------
    undo
        Take back what was done. What somebody changed since is left alone, and said.
    dry_run
        Only show what would be done.
    """
    configure_log(os.environ)
    settings = load_settings(os.environ)
    record = str(settings.state_dir.with_name(f"{settings.state_dir.name}-prepared.json"))
    here = root == _THIS_HOST
    if here and not dry_run and os.geteuid() != 0:
        raise OperationalError(Kind.INVALID, "host", "only root can change it", "run it as root, with sudo")
    host = Host(root, record, DebianPackages() if here else None)
    spec = wanted_host(settings, forkbed_program())
    if not here:  # a directory, to look at what would be written
        spec = replace(spec, packages=())
    planned: Sequence[Step | UndoStep] = host.plan_undo() if undo else host.plan(spec)
    if as_json:
        print(json.dumps([{"step": type(step).__name__, **asdict(step)} for step in planned], indent=2))
    tell = _say_nothing if as_json else _show
    if dry_run:
        for step in planned:
            tell(step)
    elif undo:
        host.undo(tell)
    else:
        host.prepare(spec, tell)
    if not as_json:
        print(_summary(len(planned), undo=undo, dry_run=dry_run))


def _summary(count: int, *, undo: bool, dry_run: bool) -> str:
    if not count:
        return "there is nothing to take back" if undo else "this host is ready"
    changes = "1 change" if count == 1 else f"{count} changes"
    if dry_run:
        return f"{changes} would be {'taken back' if undo else 'made'}"
    if undo:
        return "taken back"
    return f"{changes} made; next: systemctl enable --now forkbed, and forkbed doctor"


def _say_nothing(_: Step | UndoStep) -> None:
    return None


def _show(step: Step | UndoStep) -> None:
    for line in describe(step):
        print(line)


def describe(step: Step | UndoStep) -> Iterator[str]:
    """A step as lines like those of a diff: + what comes, - what goes, ~ what changes."""
    match step:
        case InstallPackages(names):
            yield from (f"+ package {name}" for name in names)
        case RemovePackages(names):
            yield from (f"- package {name}" for name in names)
        case MakeDirectory(path, mode):
            yield f"+ directory {path} (mode {mode:04o})"
        case RemoveDirectory(path):
            yield f"- directory {path}"
        case WriteFile(path, content, previous):
            yield f"{'+' if previous is None else '~'} file {path}"
            yield from _difference(previous or "", content)
        case WriteBlock(path, block, made):
            yield f"{'+' if made else '~'} file {path}"
            yield from (f"    + {line}" for line in block.splitlines())
        case RestoreFile(path, content):
            yield f"- file {path}" if content is None else f"~ file {path}, as it was before"
        case SetSysctl(name, value, previous):
            yield f"~ sysctl {name}: {previous} -> {value}"
        case Left(what, why):
            yield f"! {what} stays: {why}"
        case _:
            assert_never(step)


def _difference(before: str, after: str) -> Iterator[str]:
    for line in difflib.ndiff(before.splitlines(), after.splitlines()):
        if line[0] in "+-":
            yield f"    {line}"
