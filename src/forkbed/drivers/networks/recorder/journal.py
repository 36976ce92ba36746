"""What the recorder writes down, within its limits."""

from __future__ import annotations

import time
from collections.abc import Hashable
from ipaddress import IPv4Address

from forkbed.core.networks.intents import Intent, IntentKind
from forkbed.core.networks.recording.limits import Rate, Recent
from forkbed.core.networks.recording.names import Names
from forkbed.core.networks.recording.understood import Understood
from forkbed.drivers.networks.recorder.files import IntentFiles
from forkbed.drivers.networks.recorder.settings import Limits
from forkbed.drivers.networks.recorder.sockets import Address

DROPS_EVERY_S = 1.0


class Journal:
    """Writes intents down, and how many were too many."""

    def __init__(self, files: IntentFiles, names: Names, limits: Limits) -> None:
        self._files = files
        self._names = names
        self._rate = Rate(limits.intents_per_s, limits.intents_at_once)
        self._recent = Recent(limits.same_within_s, limits.remembered)
        self._dropped = 0
        self._told_drops_at = 0.0

    def tell(self, what: Understood, source: str, destination: Address) -> None:
        """Write one intent, unless it is a question that was written lately."""
        source = what.source or source
        if what.kind is IntentKind.DNS and not self.is_new((source, what.host, what.details["type"])):
            return
        if not self._rate.admits(time.monotonic()):
            self.drop()
            return
        address, port = destination
        host = self._names.name_of(IPv4Address(address)) or what.host
        intent = Intent(
            0, time.time(), what.kind, source, address, port, host, what.details, what.first_bytes
        )
        if not self._files.add(intent):
            self.drop()

    def is_new(self, key: Hashable) -> bool:
        """Whether there was nothing of the kind lately."""
        return self._recent.is_new(key, time.monotonic())

    def drop(self, count: int = 1) -> None:
        """Count tries that are not written down."""
        self._dropped += count

    @property
    def has_drops(self) -> bool:
        """Whether there are some that were not told."""
        return self._dropped > 0

    def tell_drops_sometimes(self) -> None:
        """`tell_drops`, unless that was just now."""
        if time.monotonic() - self._told_drops_at >= DROPS_EVERY_S:
            self.tell_drops()

    def tell_drops(self) -> None:
        """Write down how many were dropped since the last time."""
        if not self._dropped:
            return
        self._told_drops_at = time.monotonic()
        details = {"count": str(self._dropped)}
        if self._files.add(Intent(0, time.time(), IntentKind.DROPPED, "", "", 0, details=details)):
            self._dropped = 0
