"""The host's packages, files and kernel parameters: look at them, change them one step at a time.

Each step is recorded before the next one, and the host is looked at again in between: an interrupted `prepare` can be
run again or taken back, and a package may bring a file that was to be made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import assert_never

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import processes
from forkbed.drivers.durable import remove_durably, write_durably
from forkbed.drivers.hostsetup.packages import Packages
from forkbed.drivers.hostsetup.plan import (
    HostSpec,
    HostView,
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
    parents,
    plan_prepare,
    plan_undo,
    remember,
    with_block,
)
from forkbed.drivers.hostsetup.record import load_record, save_record

_UNITS = "/etc/systemd/system/"


class Host:
    """A host at `root` ("/" for this one). `packages` is None where packages are none of our business."""

    def __init__(self, root: Path, record: str, packages: Packages | None) -> None:
        self._root = root
        self._record = self._path(record)
        self._packages = packages

    def plan(self, spec: HostSpec) -> tuple[Step, ...]:
        """What `prepare` would do now."""
        return plan_prepare(spec, self._look(spec))

    def prepare(self, spec: HostSpec, tell: Callable[[Step], None]) -> int:
        """Make the host as wanted; `tell` hears of each step before it is done. Returns how many there were."""
        previous: Step | None = None
        count = 0
        while steps := self.plan(spec):
            step = steps[0]
            if step == previous:
                raise OperationalError(
                    Kind.FAULT,
                    "host",
                    f"a change had no effect: {step}",
                    "see whether something else on this host changes it back",
                )
            tell(step)
            # First noted, then done: what is noted and was not done is simply not there to be taken back.
            self._note(step)
            try:
                self._do(step)
            except OSError as error:
                raise OperationalError(
                    Kind.FAULT,
                    "host",
                    f"a change could not be made: {error}",
                    "run it as root, on the host itself",
                ) from error
            previous = step
            count += 1
        return count

    def plan_undo(self) -> tuple[UndoStep, ...]:
        """What `undo` would do now; nothing if this host was never prepared."""
        record = load_record(self._record)
        return plan_undo(record, self._look(_named_by(record)))

    def undo(self, tell: Callable[[UndoStep], None]) -> int:
        """Take back what is recorded, as far as it is still as it was left. Returns how many steps there were."""
        steps = self.plan_undo()
        self._refuse_while_serving(steps)
        for step in steps:
            tell(step)
            left = self._take_back(step)
            if left is not None:
                tell(left)
        remove_durably(self._record)
        return len(steps)

    def _path(self, absolute: str) -> Path:
        return self._root / absolute.lstrip("/")

    def _sysctl(self, name: str) -> Path:
        return self._path("/proc/sys") / name.replace(".", "/")

    def _look(self, spec: HostSpec) -> HostView:
        texts = (*spec.files, *spec.blocks)
        directories = {*spec.directories}
        directories |= {parent for path in (*spec.directories, *texts) for parent in parents(path)}
        return HostView(
            installed=self._packages.installed() if self._packages else frozenset(spec.packages),
            directories=frozenset(path for path in directories if self._path(path).is_dir()),
            texts={path: _read(self._path(path)) for path in texts},
            sysctls={
                name: value and value.strip()
                for name in spec.sysctls
                for value in [_read(self._sysctl(name))]
            },
        )

    def _do(self, step: Step) -> None:
        match step:
            case InstallPackages(names):
                self._install(names)
            case MakeDirectory(path, mode):
                self._path(path).mkdir(exist_ok=True)
                self._path(path).chmod(mode)
            case WriteFile(path, content):
                self._write(path, content)
            case WriteBlock(path, block):
                self._write(path, with_block(_read(self._path(path)) or "", block))
            case SetSysctl(name, value):
                self._set_sysctl(name, value)
            case _:
                assert_never(step)

    def _note(self, step: Step) -> None:
        save_record(self._record, remember(load_record(self._record), step))

    def _install(self, names: tuple[str, ...]) -> None:
        packages = self._known_packages()
        before = packages.installed()
        packages.install(names)
        # What they depend on came for the same reason, and goes for the same reason.
        self._note(InstallPackages(tuple(sorted(packages.installed() - before))))

    def _take_back(self, step: UndoStep) -> Left | None:
        """Do the step; returns what could not be taken back."""
        match step:
            case RemovePackages(names):
                try:
                    self._known_packages().remove(names)
                except OperationalError as error:
                    if error.kind is not Kind.UNSAFE:
                        raise
                    return Left(f"packages {' '.join(names)}", error.brief)
            case RemoveDirectory(path):
                try:
                    self._path(path).rmdir()
                except OSError as error:
                    return Left(path, (error.strerror or str(error)).lower())
            case RestoreFile(path, content):
                self._write(path, content)
            case SetSysctl(name, value):
                self._set_sysctl(name, value)
            case Left():
                pass
            case _:
                assert_never(step)
        return None

    def _write(self, path: str, content: str | None) -> None:
        if content is None:
            remove_durably(self._path(path))
        else:
            write_durably(self._path(path), content.encode(), mode=0o644)
        if _is_unit(path) and self._runs_systemd():
            processes.run(["systemctl", "daemon-reload"], subject=path)

    def _set_sysctl(self, name: str, value: str) -> None:
        try:
            self._sysctl(name).write_text(f"{value}\n")
        except OSError as error:
            raise OperationalError(
                Kind.FAULT,
                f"sysctl {name}",
                f"cannot be set: {error.strerror}",
                "run it as root, on the host itself",
            ) from error

    def _refuse_while_serving(self, steps: Iterable[UndoStep]) -> None:
        units = [
            Path(step.path).name for step in steps if isinstance(step, RestoreFile) and _is_unit(step.path)
        ]
        for unit in units if self._runs_systemd() else []:
            if processes.run(["systemctl", "is-active", "--quiet", unit], accept=None).status == 0:
                raise OperationalError(
                    Kind.CONFLICT, unit, "the service runs", f"stop it first: systemctl disable --now {unit}"
                )

    def _runs_systemd(self) -> bool:
        return self._root == Path("/") and Path("/run/systemd/system").is_dir()

    def _known_packages(self) -> Packages:
        assert self._packages is not None, "packages were planned for a host whose packages are not ours"
        return self._packages


def _named_by(record: Iterable[Step]) -> HostSpec:
    """What must be looked at to take the record back."""
    names: tuple[str, ...] = ()
    directories: dict[str, int] = {}
    texts: dict[str, str] = {}
    sysctls: dict[str, str] = {}
    for step in record:
        match step:
            case InstallPackages():
                names = step.names
            case MakeDirectory():
                directories[step.path] = step.mode
            case WriteFile() | WriteBlock():
                texts[step.path] = ""
            case SetSysctl():
                sysctls[step.name] = step.value
            case _:
                assert_never(step)
    return HostSpec(names, directories, texts, {}, sysctls)


def _is_unit(path: str) -> bool:
    return path.startswith(_UNITS)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
