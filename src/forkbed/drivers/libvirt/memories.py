"""The memories of machines on this host: where their files are, which are complete, and reading one that still grows.

`SNAPSHOT/MACHINE.mem` is QEMU's stream, `MACHINE.json` beside it says that it is complete, how long it is, and what
the machine looked like. A stream without that note is no memory: the process that had it written died. One that need
not last names the host's boot in its note, and is none after it: nobody waited until it was on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId, SnapshotId
from forkbed.base.units import format_size
from forkbed.drivers.durable import (
    read_files,
    sweep_temporaries,
    sync_directory,
    write_for_this_boot,
    write_json_durably,
)
from forkbed.drivers.libvirt.pauses import host_boot
from forkbed.ports.cuts import MemoryView

_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}")
_STREAM, _NOTE = ".mem", ".json"
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_Key = tuple[SnapshotId, MachineId]


@dataclass(slots=True)
class _State:
    """What all who use one memory have in common."""

    domain: str = ""
    size_bytes: int | None = None  # once it is known
    failure: str = ""
    over: threading.Event = field(default_factory=threading.Event)  # no more bytes will come
    settled: threading.Event = field(default_factory=threading.Event)  # and nobody writes beside it any more


class Memory:
    """One memory: complete, or still being written by a cut of this process.

    `descriptor` is open as long as the object is in use; its position is QEMU's, in every copy. `domain` is the
    machine's XML at the cut.
    """

    def __init__(self, path: Path, descriptor: int, state: _State, *, lasting: bool = True) -> None:
        self.path = path
        self.descriptor = descriptor
        self._state = state
        self._lasting = lasting

    @property
    def domain(self) -> str:
        return self._state.domain

    @property
    def failure(self) -> str:
        """Why it will never be complete; "" otherwise."""
        return self._state.failure

    def describe(self, domain: str) -> None:
        """Note the machine's XML; before anything is written."""
        self._state.domain = domain

    def extent(self) -> tuple[int, bool]:
        """How many bytes are there for good, and whether that is all."""
        over = self._state.over.is_set()
        if self._state.size_bytes is not None:
            return self._state.size_bytes, over
        return os.lseek(self.descriptor, 0, os.SEEK_CUR), over

    def complete(self) -> int:
        """The stream has ended well: give back what is not needed, and say that it is complete, durably if it lasts.

        Returns its size. Raises FAULT.
        """
        size = os.lseek(self.descriptor, 0, os.SEEK_CUR)
        try:
            os.ftruncate(self.descriptor, size)
            self._state.size_bytes = size
            self._state.over.set()  # whoever follows need not wait for the disk
            if self._lasting:
                os.fdatasync(self.descriptor)
        except OSError as error:
            raise OperationalError(
                Kind.FAULT, str(self.path), f"cannot be written: {error.strerror}", "look for space"
            ) from error
        note = {"size_bytes": size, "domain": self.domain}
        if self._lasting:
            write_json_durably(self.path.with_suffix(_NOTE), note)
        else:
            write_for_this_boot(self.path.with_suffix(_NOTE), note | {"host_boot": host_boot()})
        return size

    def fail(self, reason: str) -> None:
        """The stream will not be complete; what is there of it goes."""
        self._state.failure = reason
        self._state.over.set()
        self.path.with_suffix(_NOTE).unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def settle(self) -> None:
        """It is complete or has failed, and all is written that there is to say about it."""
        self._state.settled.set()
        os.close(self.descriptor)

    def await_settled(self) -> None:
        """Wait until whoever writes it is done with it."""
        self._state.settled.wait()

    def follower(self) -> Memory:
        """The same memory for a reader, with a descriptor of its own."""
        return Memory(self.path, os.dup(self.descriptor), self._state, lasting=self._lasting)


class Memories:
    """The memories below one directory. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._growing: dict[_Key, Memory] = {}
        self._lock = threading.Lock()

    def begin(
        self,
        snapshot_id: SnapshotId,
        machine_id: MachineId,
        size_bytes: int,
        subject: str,
        *,
        lasting: bool = True,
    ) -> Memory:
        """An empty memory with room for that much. CONFLICT, and nothing left behind, if there is no room."""
        path = self._path(snapshot_id, machine_id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._directory.chmod(0o700)
            path.with_suffix(_NOTE).unlink(missing_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OperationalError(Kind.FAULT, str(path), f"cannot be made: {error.strerror}") from error
        memory = Memory(path, descriptor, _State(), lasting=lasting)
        try:
            # QEMU must never find the disk full: a background snapshot that cannot go on hangs its machine.
            os.posix_fallocate(descriptor, 0, size_bytes)
            if lasting:
                sync_directory(path.parent)
        except OSError as error:
            os.close(descriptor)
            memory.fail("no room")
            self._drop_empty(path.parent)
            raise _no_room(error, subject, size_bytes, path) from error
        with self._lock:
            self._growing[snapshot_id, machine_id] = memory
        return memory

    def settle(self, snapshot_id: SnapshotId, machine_id: MachineId) -> None:
        """The memory that was begun is complete or has failed: from now on the disk alone tells."""
        with self._lock:
            memory = self._growing.pop((snapshot_id, machine_id), None)
        if memory is not None:
            memory.settle()
            if memory.failure:
                self._drop_empty(memory.path.parent)

    def await_settled(self, machine_id: MachineId) -> None:
        """Wait until no memory of that machine is being written by this process."""
        with self._lock:
            growing = [memory for key, memory in self._growing.items() if key[1] == machine_id]
        for memory in growing:
            memory.await_settled()

    @contextlib.contextmanager
    def opened(self, snapshot_id: SnapshotId, machine_id: MachineId, subject: str) -> Iterator[Memory]:
        """The memory for reading, complete or growing. NOT_FOUND if there is none."""
        path = self._path(snapshot_id, machine_id)
        with self._lock:
            growing = self._growing.get((snapshot_id, machine_id))
            if growing is not None:
                follower = growing.follower()
        if growing is None:
            try:
                note = _note(path.with_suffix(_NOTE).read_bytes())
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                state = _State(str(note["domain"]), int(note["size_bytes"]))
                state.over.set()
                follower = Memory(path, descriptor, state)
            except (OSError, ValueError, KeyError) as error:
                raise OperationalError(
                    Kind.NOT_FOUND,
                    subject,
                    f"its memory is not there: {path}",
                    "start the machine without it, or take another snapshot",
                ) from error
        try:
            yield follower
        finally:
            os.close(follower.descriptor)

    def make_lasting(self, snapshot_id: SnapshotId) -> bool:
        """Have the snapshot's complete memories on the disk, and noted so. False if there are none. May raise FAULT."""
        directory = self._directory / _plain(snapshot_id)
        found = list(read_files(directory, f"*{_NOTE}"))
        try:
            for path, data in found:
                note = _note(data)
                if note.pop("host_boot", None) is not None:
                    with path.with_suffix(_STREAM).open("rb") as stream:
                        os.fdatasync(stream.fileno())
                    write_json_durably(path, note)
            if found:
                sync_directory(self._directory)  # for the directory itself
        except ValueError:
            return False
        except OSError as error:
            raise OperationalError(
                Kind.FAULT, str(directory), f"cannot be written: {error.strerror}", "look for space"
            ) from error
        return bool(found)

    def views(self) -> list[MemoryView]:
        """All memories, complete or being written."""
        with self._lock:
            growing = dict(self._growing)
        found = {
            key: MemoryView(*key, size_bytes=os.stat(memory.path).st_size)
            for key, memory in growing.items()
            if memory.path.exists()
        }
        for path, data in read_files(self._directory, f"*/*{_NOTE}"):
            key = SnapshotId(path.parent.name), MachineId(path.stem)
            with contextlib.suppress(ValueError):
                found[key] = MemoryView(*key, size_bytes=int(_note(data)["size_bytes"]))
        return [found[key] for key in sorted(found)]

    def remove(self, snapshot_id: SnapshotId) -> bool:
        """Remove the snapshot's memories once none of them is being written; returns whether there were any."""
        with self._lock:
            growing = [memory for key, memory in self._growing.items() if key[0] == snapshot_id]
        for memory in growing:
            memory.await_settled()
        directory = self._directory / _plain(snapshot_id)
        if not directory.exists():
            return False
        try:
            for note in directory.glob(f"*{_NOTE}"):  # first what calls them complete
                note.unlink()
            shutil.rmtree(directory)
        except OSError as error:
            raise OperationalError(
                Kind.FAULT, str(directory), f"cannot be removed: {error.strerror}"
            ) from error
        return True

    def sweep(self) -> None:
        """Remove what a process that died left incomplete. Only while nobody else makes cuts.

        A machine may still write to such a file; its space comes back with the end of the stream.
        """
        with self._lock:
            growing = {memory.path for memory in self._growing.values()}
        for directory in self._directory.glob("*"):
            sweep_temporaries(directory)
            for note, data in read_files(directory, f"*{_NOTE}"):
                try:
                    _note(data)
                except ValueError:
                    note.unlink(missing_ok=True)
            for path in directory.glob(f"*{_STREAM}"):
                if path not in growing and not path.with_suffix(_NOTE).exists():
                    path.unlink(missing_ok=True)
            self._drop_empty(directory)

    def _path(self, snapshot_id: SnapshotId, machine_id: MachineId) -> Path:
        return self._directory / _plain(snapshot_id) / f"{_plain(machine_id)}{_STREAM}"

    def _drop_empty(self, directory: Path) -> None:
        with contextlib.suppress(OSError):
            directory.rmdir()


def _note(data: bytes) -> dict[str, Any]:
    """What is noted of a complete memory. ValueError for one of an earlier boot of the host that was not to last."""
    note: dict[str, Any] = json.loads(data)
    if note.get("host_boot", host_boot()) != host_boot():
        raise ValueError("of an earlier boot of the host")
    return note


def _plain(name: str) -> str:
    if not _PLAIN_ID.fullmatch(name):
        raise ValueError(f"not an id: {name!r}")
    return name


def _no_room(error: OSError, subject: str, size_bytes: int, path: Path) -> OperationalError:
    if error.errno not in _NO_SPACE:
        return OperationalError(Kind.FAULT, str(path), f"cannot be allocated: {error.strerror}")
    return OperationalError(
        Kind.CONFLICT,
        subject,
        f"there is no room for its memory: up to {format_size(size_bytes)} in {path.parent.parent}",
        "delete snapshots that are no longer needed, or keep the disks only",
    )
