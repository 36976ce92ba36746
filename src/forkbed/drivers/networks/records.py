"""What the host remembers of each network while it is up: one small file per network, replaced atomically.

A record says what the network claims of the host (names, transit, published ports), so that the tables shared
by all networks can be rendered from the records alone, and what of it was completed. It is written before
anything is made, without digest, and again with the digest when all is done. It lives in the runtime directory:
what it describes ends with the host's boot too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from forkbed.base.ids import NetworkId, SystemId
from forkbed.core.networks.publications import Publication
from forkbed.core.systems.spec import Protocol

_RECORD = "record.json"


@dataclass(frozen=True, slots=True)
class Record:
    """One network on this host. `digest` is empty until all was done. `outside` names the host's bridge it leads to.

    `recorded`: a fork's, whose way out ends in a recorder.
    """

    network_id: NetworkId
    system_id: SystemId
    label: str  # for messages: "inside of system boss-ops"
    bridge: str
    subnet: IPv4Network
    outside: str = ""
    transit: IPv4Network | None = None
    nat: bool = False
    recorded: bool = False
    publications: tuple[Publication, ...] = field(default=())
    digest: str = ""

    def as_text(self) -> str:
        return json.dumps(asdict(self), default=str, indent=1) + "\n"

    @classmethod
    def parse(cls, text: str) -> Record:
        """The inverse of `as_text`. Raises ValueError, KeyError or TypeError for anything else."""
        data: dict[str, Any] = json.loads(text)
        data["subnet"] = IPv4Network(data["subnet"])
        data["transit"] = IPv4Network(data["transit"]) if data["transit"] else None
        data["publications"] = tuple(_publication(entry) for entry in data["publications"])
        return cls(**data)

    def transit_host(self) -> IPv4Address:
        """The host's address on the transit; it must have one."""
        assert self.transit is not None
        return self.transit[0]

    def transit_service(self) -> IPv4Address:
        """The service namespace's address on the transit; it must have one."""
        assert self.transit is not None
        return self.transit[1]


def _publication(entry: dict[str, Any]) -> Publication:
    return Publication(
        protocol=Protocol(entry["protocol"]),
        host_address=IPv4Address(entry["host_address"]),
        host_port=int(entry["host_port"]),
        transit_port=int(entry["transit_port"]),
        machine_address=IPv4Address(entry["machine_address"]),
        machine_port=int(entry["machine_port"]),
        hides_client=bool(entry["hides_client"]),
    )


class Records:
    """The records under one directory, each in a directory of its network's with its other files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def directory(self, network_id: NetworkId) -> Path:
        """Where the network's files are; made by `write`."""
        return self._directory / network_id

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held while networks are changed: by one thread of one process at a time."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def read_all(self) -> dict[NetworkId, Record | None]:
        """Every network that has a directory; None where its record is missing or cannot be read."""
        found: dict[NetworkId, Record | None] = {}
        with contextlib.suppress(FileNotFoundError):
            for entry in sorted(os.scandir(self._directory), key=lambda entry: entry.name):
                if entry.is_dir():
                    found[NetworkId(entry.name)] = self._read(Path(entry.path))
        return found

    def write(self, record: Record) -> bool:
        """Store the record; returns whether it differed from what was stored."""
        directory = self.directory(record.network_id)
        directory.mkdir(parents=True, exist_ok=True)
        return write_if_changed(directory / _RECORD, record.as_text())

    def remove(self, network_id: NetworkId) -> None:
        """Forget the network and all its files."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory(network_id))

    def _read(self, directory: Path) -> Record | None:
        try:
            return Record.parse((directory / _RECORD).read_text())
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None  # half-made, or of a version that wrote it differently: it is made anew


def holds(path: Path, text: str) -> bool:
    """Whether there is a file with exactly this content."""
    try:
        return path.read_text() == text
    except FileNotFoundError:
        return False


def write_if_changed(path: Path, text: str) -> bool:
    """Replace the file by one that holds `text`, at once; returns whether it held something else before."""
    if holds(path, text):
        return False
    replace_file(path, text)
    return True


def replace_file(path: Path, text: str) -> None:
    """Put a world-readable file at `path` at once: readers see the old one or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.chmod(0o644)
    temporary.replace(path)
