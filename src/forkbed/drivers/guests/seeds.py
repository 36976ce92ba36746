"""Seed disks as files: one ISO image per machine, 0400 because it holds secrets, with a sidecar that says what it is.

Machines whose seeds are the same, as those of a system and its forks are, have one file with several names.
The sidecar is renamed into place after the image, so a digest is shown only for a disk that is there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId
from forkbed.core.systems.spec import ResolvedMachine
from forkbed.core.systems.steps import Effect
from forkbed.drivers import processes
from forkbed.drivers.durable import (
    put_in_place,
    read_files,
    remove_durably,
    sweep_temporaries,
    temporary_beside,
    write_durably,
)
from forkbed.drivers.guests.keys import KeyStore
from forkbed.drivers.guests.seed_files import seed_files
from forkbed.ports.guests import SeedContent
from forkbed.ports.hypervisor import DiskAttachment

_VOLUME_LABEL = "cidata"  # cloud-init looks for it
_SERIAL = "seed"
_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}")


@dataclass(frozen=True, slots=True)
class _Record:
    """What the sidecar says. `content` is the digest that the guest compares."""

    machine_id: MachineId
    instance_id: str
    digest: str
    content: str


class SeedStore:
    """The seed disks of one installation. Calls about different machines may run at the same time."""

    def __init__(self, directory: Path, keys: KeyStore) -> None:
        """Make the directory, and remove what a controller that died left half-written."""
        self._directory = directory
        self._keys = keys
        directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        sweep_temporaries(directory)
        for draft in directory.glob(".files-*"):
            shutil.rmtree(draft, ignore_errors=True)
        for image in directory.glob("*.iso"):
            if not image.with_suffix(".json").exists():
                image.unlink(missing_ok=True)  # it holds secrets, and nobody knows of it who would remove it

    def write(self, machine: ResolvedMachine, content: SeedContent, digest: str) -> Effect:
        """Make the machine's seed disk unless it is there with the same content."""
        files = seed_files(
            machine,
            content,
            self._keys.host_key(machine.instance_id),
            self._keys.login_key().public,
        )
        record = _Record(machine.id, machine.instance_id, digest, files["forkbed/digest"].decode().strip())
        image, sidecar = self._image(machine.id), self._sidecar(machine.id)
        if image.exists() and sidecar.exists() and _read(sidecar) == record:
            return Effect.ALREADY
        try:
            if not self._share(image, record):
                self._make(image, files, f"seed of {content.system_name}/{machine.name}")
        except OSError as error:
            raise OperationalError(
                Kind.FAULT, str(image), f"cannot be written: {error.strerror}", "look for space"
            ) from error
        try:
            write_durably(sidecar, json.dumps(asdict(record), indent=1).encode() + b"\n")
        except OperationalError:
            if not sidecar.exists():
                image.unlink(missing_ok=True)
            raise
        return Effect.CHANGED

    def attachment(self, machine: ResolvedMachine) -> DiskAttachment:
        """The machine's seed disk for the hypervisor."""
        return DiskAttachment(_SERIAL, str(self._image(machine.id)), "raw", read_only=True)

    def digests(self) -> Mapping[MachineId, str]:
        """The digest with which each seed on the host was written."""
        return {r.machine_id: r.digest for r in self._records() if self._image(r.machine_id).exists()}

    def remove(self, machine_id: MachineId) -> Effect:
        """Remove the seed, and the guest's host key unless another machine (a fork) has the same instance id."""
        sidecar = self._sidecar(machine_id)
        record = _read(sidecar) if sidecar.exists() else None
        if record is not None:
            others = {r.instance_id for r in self._records() if r.machine_id != machine_id}
            if record.instance_id not in others:
                self._keys.forget_host(record.instance_id)
        try:
            removed_image = remove_durably(self._image(machine_id))
            removed_sidecar = remove_durably(sidecar)
        except OSError as error:
            raise OperationalError(
                Kind.FAULT, f"seed of machine {machine_id}", f"cannot be removed: {error.strerror}"
            ) from error
        return Effect.CHANGED if removed_image or removed_sidecar else Effect.ALREADY

    def _share(self, image: Path, record: _Record) -> bool:
        """Let the image be that of another machine which has the same content; False if there is none."""
        for other in self._records():
            if other.content != record.content:
                continue
            temporary = temporary_beside(image)
            try:
                os.link(self._image(other.machine_id), temporary)
            except FileNotFoundError:  # removed just now
                continue
            put_in_place(temporary, image)
            temporary.unlink(missing_ok=True)  # renaming one name of a file to another one of it does nothing
            return True
        return False

    def _make(self, image: Path, files: Mapping[str, bytes], subject: str) -> None:
        draft = Path(tempfile.mkdtemp(prefix=".files-", dir=self._directory))
        temporary = temporary_beside(image)
        try:
            for name, data in files.items():
                path = draft / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
            # The image holds secrets: it never exists with a wider mode.
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            processes.run(
                [
                    *("genisoimage", "-quiet", "-rational-rock", "-joliet", "-volid", _VOLUME_LABEL),
                    *("-output", temporary, draft),
                ],
                subject=subject,
            )
            temporary.chmod(0o400)
            put_in_place(temporary, image)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            temporary.unlink(missing_ok=True)

    def _records(self) -> list[_Record]:
        return [_parse(path, data) for path, data in read_files(self._directory, "*.json")]

    def _image(self, machine_id: MachineId) -> Path:
        return self._directory / f"{_plain(machine_id)}.iso"

    def _sidecar(self, machine_id: MachineId) -> Path:
        return self._directory / f"{_plain(machine_id)}.json"


def _plain(machine_id: MachineId) -> str:
    if not _PLAIN_ID.fullmatch(machine_id):
        raise ValueError(f"not a machine id: {machine_id!r}")
    return machine_id


def _read(sidecar: Path) -> _Record:
    try:
        data = sidecar.read_bytes()
    except OSError as error:
        raise _unreadable(sidecar, error) from error
    return _parse(sidecar, data)


def _parse(sidecar: Path, data: bytes) -> _Record:
    try:
        return _Record(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise _unreadable(sidecar, error) from error


def _unreadable(sidecar: Path, error: Exception) -> OperationalError:
    return OperationalError(
        Kind.FAULT,
        str(sidecar),
        f"the seed's sidecar cannot be read: {error}",
        "remove it: `up` writes it anew",
    )
