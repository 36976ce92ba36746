"""What a fork tried to do to the world: its intents, as the recorder at its way out wrote them down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class IntentKind(StrEnum):
    """As what a try was understood. TCP and UDP: as nothing more than that."""

    DNS = "dns"
    HTTP = "http"
    SMTP = "smtp"
    TLS = "tls"
    TCP = "tcp"
    UDP = "udp"
    DROPPED = "dropped"  # tries beyond the recorder's limits, counted but not kept


@dataclass(frozen=True, slots=True)
class Intent:
    """One try. `destination` is the address that was tried, `host` the name that it was tried by, if known.

    `details` holds what was understood, by kind: DNS `name`, `type`, `answer`; HTTP `method`, `path`, `host`;
    SMTP `sender`, `recipients`, `subject`; TLS `host`; DROPPED `count`. `first_bytes` are printable, the rest escaped.
    """

    sequence: int  # rises in one network, from 1
    at: float
    kind: IntentKind
    source: str  # the guest's address
    destination: str
    port: int
    host: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    first_bytes: str = ""
