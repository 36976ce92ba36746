"""Notes about machines that a cut is about to freeze, has frozen, or lets stream: for whoever has to clear up.

A note is written once and never changed; its file's suffix says how far the cut is:

`standby` nothing stands still; QEMU may have our file open, the capability on, or be streaming
`frozen`  machines may stand still, file systems may be frozen
`release` they are to run again; whoever made the cut may not go on with it
`given-up` they were held and never go on: something replaces them, and the note says so until that is stored

The owner moves it from one to the next by renaming, and so does the guard; a rename works for one of them only.
That is what makes "nobody resumes these any more" and "let them go on" exclude each other.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from forkbed.drivers import liveness
from forkbed.drivers.durable import read_files, sweep_temporaries, write_for_this_boot
from forkbed.drivers.liveness import ProcessId

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Phase(StrEnum):
    STANDBY = "standby"
    FROZEN = "frozen"
    RELEASE = "release"
    GIVEN_UP = "given-up"


@dataclass(frozen=True, slots=True)
class PausedMachine:
    """One domain. `runs`: it ran before, and so it has to again. `streams`: its memory is to be kept.

    `thaw`: its file systems may be frozen.
    """

    uuid: str
    runs: bool
    streams: bool
    thaw: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """`limit_s` is how long the machines may stand still while the owner lives."""

    purpose: str
    machines: tuple[PausedMachine, ...]
    limit_s: float
    owner: str
    host_boot: str

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """Raises ValueError, KeyError or TypeError."""
        words: dict[str, Any] = json.loads(data)
        machines = tuple(PausedMachine(**entry) for entry in words.pop("machines"))
        return cls(machines=machines, **words)

    @property
    def owner_lives(self) -> bool:
        """Whether the process that made the cut is still there."""
        return liveness.is_alive(ProcessId.parse(self.owner))

    @property
    def is_of_this_boot(self) -> bool:
        """Machines do not outlive the host's boot, and neither does what is said of them here."""
        return self.host_boot == host_boot()


class Pause:
    """One note, for whoever moves it on."""

    def __init__(self, directory: Path, name: str, note: Note, phase: Phase) -> None:
        self.note = note
        self.name = name
        self._directory = directory
        self.phase = phase

    def move(self, phase: Phase) -> bool:
        """Move the note on; returns False if somebody else did, then it is no longer in the caller's hands."""
        try:
            os.rename(self._path(self.phase), self._path(phase))
        except FileNotFoundError:
            return False
        self.phase = phase
        return True

    def remove(self) -> bool:
        """There is nothing left to clear up; False if somebody else has moved or removed the note."""
        try:
            self._path(self.phase).unlink()
        except FileNotFoundError:
            return False
        return True

    def _path(self, phase: Phase) -> Path:
        return self._directory / f"{self.name}.{phase}"


class Pauses:
    """The notes below one directory. They need not survive the host, whose machines do not either: no disk is waited
    for, least of all while machines stand still."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, purpose: str, machines: Sequence[PausedMachine], limit_s: float) -> Pause:
        """A new note of this process, on standby."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = liveness.identify(os.getpid())
        assert owner is not None, "we are alive"
        note = Note(purpose, tuple(machines), limit_s, str(owner), host_boot())
        pause = Pause(self._directory, secrets.token_hex(8), note, Phase.STANDBY)
        write_for_this_boot(self._directory / f"{pause.name}.{Phase.STANDBY}", asdict(note))
        return pause

    def concern(self, uuids: Collection[str]) -> bool:
        """Whether a note names one of these domains for more than a thaw: then its QEMU is not to be touched."""
        return any(
            machine.uuid in uuids and (machine.runs or machine.streams)
            for pause in self.all()
            if pause.phase is not Phase.GIVEN_UP  # nobody touches those
            for machine in pause.note.machines
        )

    def all(self) -> list[Pause]:
        """All notes of this boot of the host; those of earlier ones are removed on the way."""
        found = []
        for phase in Phase:
            for path, data in read_files(self._directory, f"*.{phase}"):
                try:
                    note = Note.parse(data)
                except ValueError:  # a crash of the host left half of it
                    path.unlink(missing_ok=True)
                    continue
                pause = Pause(self._directory, path.stem, note, phase)
                if note.is_of_this_boot:
                    found.append(pause)
                else:
                    pause.remove()
        return found

    def sweep(self) -> None:
        """Remove half-written notes. Only while nobody else makes cuts."""
        sweep_temporaries(self._directory)


def host_boot() -> str:
    """Which boot of the host this is."""
    return _BOOT_ID.read_text().strip()
