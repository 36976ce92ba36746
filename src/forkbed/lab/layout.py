"""Where a lab keeps what, and what is written down about it.

One directory for each lab: `run`, `state` and four libvirt directories are mounted inside the lab in place of the
host's; `lab.json` says which processes it consists of, so that anybody can find and end it later.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers.liveness import ProcessId

DEFAULT_NAME = "default"
HOST_ADDRESS = "198.18.0.1"  # RFC 2544's range: no real network uses it, and it exists in the lab only
WORLD_ADDRESS = "198.18.0.254"
ADDRESS_PREFIX = 24
TRANSIT_POOL = "198.19.0.0/16"
WORLD_NAMESPACE = "world"
OUTSIDE_NETWORK = Path("/run/forkbed-lab/outside-net")
"""Inside the lab: the network namespace that the lab was started from; image builds reach the archive there."""

_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class LabPaths:
    """The directory of one lab, seen from the host."""

    root: Path

    @classmethod
    def of(cls, lab_dir: Path, name: str) -> LabPaths:
        """The paths of the lab `name`; INVALID if that cannot be a lab's name."""
        if not _NAME.fullmatch(name):
            raise OperationalError(
                Kind.INVALID,
                f"lab {name!r}",
                "a lab cannot have this name",
                "use up to 32 lower-case letters, digits and dashes, beginning with a letter",
            )
        return cls(lab_dir / name)

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.root.name

    @property
    def run(self) -> Path:
        """/run of the lab."""
        return self.root / "run"

    @property
    def state(self) -> Path:
        """/var/lib/forkbed of the lab."""
        return self.root / "state"

    @property
    def record(self) -> Path:
        """What is known about the lab's processes."""
        return self.root / "lab.json"

    @property
    def log(self) -> Path:
        """What the lab's first process and the daemons say."""
        return self.root / "lab.log"

    @property
    def forwards(self) -> Path:
        """What the proxy of published ports listens to at present."""
        return self.root / "forwards.json"

    @property
    def lock(self) -> Path:
        """Held while the lab is brought up or taken down; beside the directory, which comes and goes."""
        return self.root.parent / f".{self.name}.lock"

    @property
    def published(self) -> Path:
        """The ports that Forkbed in the lab has published."""
        return self.run / "forkbed" / "published.json"

    @property
    def libvirt_socket(self) -> Path:
        """libvirt's socket in the lab, reachable from outside."""
        return self.run / "libvirt" / "libvirt-sock"

    @property
    def api_socket(self) -> Path:
        """The socket of `forkbed serve` in the lab, reachable from outside."""
        return self.run / "forkbed" / "api.sock"

    def mounts(self) -> dict[Path, Path]:
        """Directory of the lab -> where it is mounted inside."""
        return {
            self.state: Path("/var/lib/forkbed"),
            self.root / "etc-libvirt": Path("/etc/libvirt"),
            self.root / "lib-libvirt": Path("/var/lib/libvirt"),
            self.root / "log-libvirt": Path("/var/log/libvirt"),
            self.root / "cache-libvirt": Path("/var/cache/libvirt"),
            self.run: Path("/run"),  # last: what is mounted before may lie under the old one
        }


@dataclass(frozen=True, slots=True)
class LabRecord:
    """What is written down about a lab. Pids are the host's."""

    host_uuid: str
    init: ProcessId | None = None  # the lab's first process: everything in the lab dies with it
    proxy: ProcessId | None = None
    owner: ProcessId | None = None  # the process that the lab belongs to and dies with; None: it stays

    def save(self, path: Path) -> None:
        """Replace the file at once, so that a reader never sees half of it."""
        write_atomically(path, json.dumps({key: _plain(value) for key, value in _fields(self).items()}))

    @classmethod
    def load(cls, path: Path) -> LabRecord | None:
        """What is written there; None if there is nothing readable (a lab that was never quite made)."""
        try:
            data = json.loads(path.read_text())
            processes = {
                key: ProcessId.parse(data[key]) if data[key] else None for key in ("init", "proxy", "owner")
            }
            return cls(host_uuid=str(data["host_uuid"]), **processes)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True, slots=True, order=True)
class PublishedPort:
    """A port of the lab's host that shall appear on the real host's 127.0.0.1."""

    protocol: str
    host_address: str
    host_port: int


def parse_published(text: str) -> frozenset[PublishedPort]:
    """The content of `published.json`. Raises ValueError for anything that is not a list of ports."""
    ports = set()
    entries = json.loads(text)
    if not isinstance(entries, list):
        raise ValueError("it is not a list")
    for entry in entries:
        if not isinstance(entry, Mapping) or not {"protocol", "host_address", "host_port"} <= entry.keys():
            raise ValueError(f"it lacks protocol, host_address or host_port: {entry!r}")
        number = entry["host_port"]
        if entry["protocol"] not in ("tcp", "udp") or type(number) is not int or not 0 < number < 65536:
            raise ValueError(f"it is no TCP or UDP port: {entry!r}")
        ports.add(PublishedPort(entry["protocol"], str(entry["host_address"]), number))
    return frozenset(ports)


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that it is there in full or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.rename(path)


def _fields(record: LabRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in asdict(record)}


def _plain(value: object) -> str | None:
    return None if value is None else str(value)
