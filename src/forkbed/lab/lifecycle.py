"""Bring a lab up, say how it is, take it down.

A lab that somebody killed half-way is no special case: `up` begins by removing what is left of it, `down` works
on any remains, and `sweep` removes the labs whose owner has died.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import liveness
from forkbed.lab.layout import LabPaths, LabRecord, write_atomically
from forkbed.lab.session import Lab
from forkbed.lab.starting import answers, await_libvirt, libvirt_answers, start, start_proxy

_MADE_DIRECTORIES = ".made-directories.json"
_SHARED_CACHE = Path("/var/cache/forkbed")


@dataclass(frozen=True, slots=True)
class LabView:
    """How a lab is at this moment."""

    name: str
    directory: str
    running: bool
    pid: int | None
    libvirt_answers: bool
    serve_answers: bool
    owner: int | None
    forwards: tuple[dict[str, object], ...]
    """The published ports on 127.0.0.1: protocol, port, problem."""


def up(lab_dir: Path, name: str, *, bound: bool = False) -> Lab:
    """Make sure that the lab runs and libvirt answers in it; nothing happens if it does already.

    `bound`: the lab belongs to the calling process, and the kernel kills it when the calling thread ends.
    Raises FAULT, with what its processes said, if it does not come up.
    """
    _require_root()
    paths = LabPaths.of(lab_dir, name)
    with _locked(paths):
        record = LabRecord.load(paths.record)
        lab = _running(paths)
        if lab is None or record is None:
            return _start_afresh(paths, record, bound=bound)
        await_libvirt(lab)
        if record.proxy is None or not liveness.is_alive(record.proxy):
            start_proxy(paths, record, bound=bound)
        return lab


def down(lab_dir: Path, name: str, *, keep_state: bool = False) -> bool:
    """End the lab and remove all that it consists of; returns whether there was anything.

    `keep_state` leaves the directory with the disks and the database for the next `up`.
    """
    _require_root()
    paths = LabPaths.of(lab_dir, name)
    if not paths.root.exists():
        return False
    with _locked(paths):
        _end(paths)
        if keep_state:
            _remove_runtime(paths)
        else:
            shutil.rmtree(paths.root)
            _remove_made_directories(lab_dir)
            paths.lock.unlink(missing_ok=True)
    if not keep_state:
        with contextlib.suppress(OSError):  # other labs are there
            lab_dir.rmdir()
    return True


def running(lab_dir: Path, name: str) -> Lab:
    """The lab if it runs, else NOT_FOUND."""
    lab = _running(LabPaths.of(lab_dir, name))
    if lab is None:
        option = "" if name == "default" else f" --name {name}"
        raise OperationalError(
            Kind.NOT_FOUND, f"lab {name}", "it does not run", f"start it with `forkbed lab up{option}`"
        )
    return lab


def view(lab_dir: Path, name: str) -> LabView:
    """How the lab is; one that was never made is simply not running."""
    paths = LabPaths.of(lab_dir, name)
    record = LabRecord.load(paths.record)
    lab = _running(paths)
    try:
        forwards = tuple(json.loads(paths.forwards.read_text())) if lab else ()
    except (FileNotFoundError, ValueError):
        forwards = ()
    return LabView(
        name=name,
        directory=str(paths.root),
        running=lab is not None,
        pid=lab.init.pid if lab else None,
        libvirt_answers=lab is not None and libvirt_answers(lab),
        serve_answers=lab is not None and answers(paths.api_socket),
        owner=record.owner.pid if record and record.owner else None,
        forwards=forwards,
    )


def names(lab_dir: Path) -> tuple[str, ...]:
    """The labs of which anything is there, running or not."""
    try:
        return tuple(sorted(entry.name for entry in lab_dir.iterdir() if entry.is_dir()))
    except FileNotFoundError:
        return ()


def sweep(lab_dir: Path, prefix: str) -> tuple[str, ...]:
    """Remove the labs with this prefix whose owner has died; returns their names."""
    swept = []
    for name in names(lab_dir):
        record = LabRecord.load(lab_dir / name / "lab.json") if name.startswith(prefix) else None
        if record and record.owner and not liveness.is_alive(record.owner):
            down(lab_dir, name)
            swept.append(name)
    return tuple(swept)


@contextlib.contextmanager
def temporary(lab_dir: Path, prefix: str) -> Iterator[Lab]:
    """A lab of one's own for as long as the context lasts, and not a moment longer, whatever happens.

    The name is `prefix` and this process's pid. Labs with the prefix that a killed process left are removed first.
    """
    sweep(lab_dir, prefix)
    name = f"{prefix}{os.getpid()}"
    try:
        yield up(lab_dir, name, bound=True)
    finally:
        down(lab_dir, name)


def _start_afresh(paths: LabPaths, previous: LabRecord | None, *, bound: bool) -> Lab:
    _end(paths)
    _remove_runtime(paths)
    _make_directories(paths)
    # The host keeps its UUID: saved machines and libvirt's own notes name it.
    uuid = previous.host_uuid if previous else str(uuid4())
    owner = liveness.identify(os.getpid()) if bound else None
    try:
        return start(paths, LabRecord(uuid, owner=owner), bound=bound)
    except BaseException:  # also Ctrl-C: half a lab is of no use to anybody
        _end(paths)
        raise


def _running(paths: LabPaths) -> Lab | None:
    record = LabRecord.load(paths.record)
    if record is None or record.init is None or not liveness.is_alive(record.init):
        return None
    return Lab(paths, record.init)


def _end(paths: LabPaths) -> None:
    """End what runs of a lab. Returns when nothing runs any more, so that its files may go."""
    record = LabRecord.load(paths.record)
    for process in (record.init, record.proxy) if record else ():
        # Killed, not asked: the kernel ends everything in the lab with its first process, and waits for it.
        if process is not None and not liveness.end(process, grace_s=0):
            raise OperationalError(
                Kind.BUSY, f"lab {paths.name}", f"process {process.pid} does not end", "look at it with ps"
            )


def _remove_runtime(paths: LabPaths) -> None:
    """Remove what must not outlive the lab's processes, as a reboot would."""
    shutil.rmtree(paths.run, ignore_errors=True)
    for path in (paths.forwards, paths.log):
        path.unlink(missing_ok=True)


def _make_directories(paths: LabPaths) -> None:
    """Make the lab's directories, and those of the host that are missing as mount points; notes the latter."""
    for directory in paths.mounts():
        directory.mkdir(parents=True, exist_ok=True)
    note = paths.root.parent / _MADE_DIRECTORIES
    with _one_at_a_time(paths.root.parent):
        made = json.loads(note.read_text()) if note.exists() else []
        for directory in (*paths.mounts().values(), _SHARED_CACHE):
            for missing in (*reversed(directory.parents), directory):
                if not missing.exists():
                    made.append(str(missing))
                    write_atomically(note, json.dumps(made))
                    missing.mkdir()


def _remove_made_directories(lab_dir: Path) -> None:
    """Remove the empty directories that labs needed as mount points, if this was the last lab."""
    note = lab_dir / _MADE_DIRECTORIES
    if not note.exists():
        return
    with _one_at_a_time(lab_dir):
        if names(lab_dir) or not note.exists():
            return
        for path in reversed(json.loads(note.read_text())):
            with contextlib.suppress(OSError):  # gone, in use, or a mount point of a lab kept elsewhere
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.rmdir(path)
                finally:
                    os.close(descriptor)
        note.unlink()


@contextlib.contextmanager
def _one_at_a_time(lab_dir: Path) -> Iterator[None]:
    """Labs that come and go at the same time must not make or remove the same directory."""
    descriptor = os.open(lab_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(paths: LabPaths) -> Iterator[None]:
    paths.lock.parent.mkdir(parents=True, exist_ok=True)
    with paths.lock.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _require_root() -> None:
    if os.geteuid() != 0:
        raise OperationalError(
            Kind.INVALID, "lab", "only root can make namespaces and run libvirt", "run it as root, with sudo"
        )
