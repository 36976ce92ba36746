"""Decide what a host lacks, and how to take back what was done to it.

Pure: functions of what is wanted, what is seen and what was recorded. Promises: a step that is already done is not
planned again; planning after some steps gives the remaining ones; taking back restores what was there before, and
leaves alone whatever somebody changed in the meantime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

BEGIN = "# forkbed: begin (written by `forkbed host prepare`)"
END = "# forkbed: end"


@dataclass(frozen=True, slots=True)
class HostSpec:
    """What a host shall have. Paths are absolute; `blocks` are parts of files that others own."""

    packages: tuple[str, ...] = ()
    directories: Mapping[str, int] = field(default_factory=dict)  # path -> mode
    files: Mapping[str, str] = field(default_factory=dict)  # path -> content
    blocks: Mapping[str, str] = field(default_factory=dict)  # path -> lines between the marks
    sysctls: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostView:
    """What was seen of the things that a spec or a record names; None for what is not there."""

    installed: frozenset[str]
    directories: frozenset[str]
    texts: Mapping[str, str | None]
    sysctls: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class InstallPackages:
    """Install Debian packages, without those they recommend."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """Make a directory."""

    path: str
    mode: int


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Write a file of our own; `previous` is what was there (None: nothing)."""

    path: str
    content: str
    previous: str | None


@dataclass(frozen=True, slots=True)
class WriteBlock:
    """Put our lines into somebody else's file; `made` says that the file did not exist."""

    path: str
    block: str
    made: bool


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """Set a kernel parameter now (a file keeps it over a reboot)."""

    name: str
    value: str
    previous: str


Step = InstallPackages | MakeDirectory | WriteFile | WriteBlock | SetSysctl


@dataclass(frozen=True, slots=True)
class RemovePackages:
    """Remove packages that were installed for Forkbed; their configuration and data stay."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RemoveDirectory:
    """Remove a directory if it is empty."""

    path: str


@dataclass(frozen=True, slots=True)
class RestoreFile:
    """Put back what was in a file before; None: there was none."""

    path: str
    content: str | None


@dataclass(frozen=True, slots=True)
class Left:
    """Something that is not taken back, and why."""

    what: str
    why: str


UndoStep = RemovePackages | RemoveDirectory | RestoreFile | SetSysctl | Left


def plan_prepare(spec: HostSpec, view: HostView) -> tuple[Step, ...]:
    """The steps that make the host as wanted, in order; none if it is."""
    steps: list[Step] = []
    missing = tuple(name for name in spec.packages if name not in view.installed)
    if missing:
        steps.append(InstallPackages(missing))
    directories = dict(spec.directories)
    for path in (*spec.directories, *spec.files, *spec.blocks):
        directories |= {parent: 0o755 for parent in parents(path) if parent not in directories}
    steps += [
        MakeDirectory(path, mode)
        for path, mode in sorted(directories.items())
        if path not in view.directories
    ]
    for path, content in spec.files.items():
        if view.texts[path] != content:
            steps.append(WriteFile(path, content, view.texts[path]))
    for path, block in spec.blocks.items():
        text = view.texts[path]
        if text is None or with_block(text, block) != text:
            steps.append(WriteBlock(path, block, made=text is None))
    for name, value in spec.sysctls.items():
        previous = view.sysctls[name]
        if previous is not None and previous != value:  # None: this kernel has no such parameter
            steps.append(SetSysctl(name, value, previous))
    return tuple(steps)


def parents(path: str) -> tuple[str, ...]:
    """The directories above `path`, the topmost first, without the root."""
    parts = path.strip("/").split("/")[:-1]
    return tuple("/" + "/".join(parts[: count + 1]) for count in range(len(parts)))


def remember(record: Sequence[Step], done: Step) -> tuple[Step, ...]:
    """The record with one more step; of several steps about one thing the first one's `previous` counts."""
    for number, earlier in enumerate(record):
        merged = _merge(earlier, done)
        if merged is not None:
            return (*record[:number], merged, *record[number + 1 :])
    return (*record, done)


def _merge(earlier: Step, done: Step) -> Step | None:
    """Both steps as one; None if they are not about the same thing."""
    match earlier, done:
        case InstallPackages(), InstallPackages():
            return InstallPackages(tuple(dict.fromkeys((*earlier.names, *done.names))))
        case WriteFile(), WriteFile() if earlier.path == done.path:
            return replace(done, previous=earlier.previous)
        case WriteBlock(), WriteBlock() if earlier.path == done.path:
            return replace(done, made=earlier.made)
        case SetSysctl(), SetSysctl() if earlier.name == done.name:
            return replace(done, previous=earlier.previous)
        case MakeDirectory(), MakeDirectory() if earlier.path == done.path:
            return done
    return None


def plan_undo(record: Sequence[Step], view: HostView) -> tuple[UndoStep, ...]:
    """The steps that take back what is recorded, the last first. What was changed since is left, and said."""
    return tuple(step for done in reversed(record) if (step := _inverse(done, view)) is not None)


def _inverse(done: Step, view: HostView) -> UndoStep | None:
    match done:
        case InstallPackages(names):
            present = tuple(name for name in names if name in view.installed)
            return RemovePackages(present) if present else None
        case MakeDirectory(path):
            return RemoveDirectory(path) if path in view.directories else None
        case WriteFile(path, content, previous):
            text = view.texts[path]
            if text == content:
                return RestoreFile(path, previous)
            return None if text == previous else Left(path, "it was changed since")
        case WriteBlock(path, made=made):
            text = view.texts[path]
            if text is None or BEGIN not in text:
                return None
            rest = with_block(text, None)
            return RestoreFile(path, None if made and not rest.strip() else rest)
        case SetSysctl(name, value, previous):
            if view.sysctls[name] == value:
                return SetSysctl(name, previous, value)
            return None if view.sysctls[name] == previous else Left(f"sysctl {name}", "it was changed since")
    assert_never(done)


def with_block(text: str, block: str | None) -> str:
    """`text` with our lines between their marks, replaced or put at the end; with None they are taken out."""
    before, begin, rest = text.partition(f"{BEGIN}\n")
    after = rest.partition(f"{END}\n")[2] if begin else ""
    if block is None:
        return before + after
    if not begin and before and not before.endswith("\n"):
        before += "\n"
    return f"{before}{BEGIN}\n{block.rstrip()}\n{END}\n{after}"
