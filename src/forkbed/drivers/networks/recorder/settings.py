"""Where the recorder listens, and what it is told."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from forkbed.drivers.networks.recorder.files import FileLimits

LOOPBACK = "127.0.0.1"
"""Where the recorder listens; no guest reaches it there."""

PORT = 4000
"""TCP and UDP: where what guests send elsewhere is handed to."""

NAMES_PORT = 4053
"""TCP and UDP: where dnsmasq asks for names that are not the system's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What guests can make the recorder hold and write."""

    connections: int = 256
    connections_of_one: int = 64  # guest
    connection_bytes: int = 32 << 20
    connection_s: float = 300.0
    intents_per_s: float = 20.0
    intents_at_once: int = 500
    same_within_s: float = 30.0  # datagrams of one exchange, and the same question, are one try
    remembered: int = 4096
    files: FileLimits = field(default_factory=FileLimits)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the recorder is told; a JSON file."""

    intents: Path
    pid_file: Path
    user: str
    gateway: IPv4Address
    pool: IPv4Network
    limits: Limits = field(default_factory=Limits)

    def as_text(self) -> str:
        return json.dumps(asdict(self), default=str, indent=1) + "\n"

    @classmethod
    def parse(cls, text: str) -> Settings:
        """The inverse of `as_text`."""
        data = json.loads(text)
        limits = data["limits"]
        return cls(
            intents=Path(data["intents"]),
            pid_file=Path(data["pid_file"]),
            user=data["user"],
            gateway=IPv4Address(data["gateway"]),
            pool=IPv4Network(data["pool"]),
            limits=Limits(**limits | {"files": FileLimits(**limits["files"])}),
        )
