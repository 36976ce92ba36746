"""Layer-2 segments on one host with DHCP, DNS, filters, uplink and published ports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from forkbed.base.ids import NetworkId, SystemId
from forkbed.core.networks.intents import Intent
from forkbed.core.systems.spec import ResolvedMachine, ResolvedNetwork
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import NetworkView


class Networks(Protocol):
    def networks(self) -> Sequence[NetworkView]:
        """All networks of this installation on the host, half-made ones too (`healthy` False)."""

    def ensure(
        self,
        system_id: SystemId,
        system_name: str,
        network: ResolvedNetwork,
        members: Sequence[ResolvedMachine],
        digest: str,
    ) -> Effect:
        """Make the network exactly as described, whatever part of it is there already, without breaking
        traffic where nothing differs. `digest` is stored last: a view shows it only when all was done.

        Filters for every member's taps are in place before it returns, whether or not the taps exist yet.
        """

    def remove(self, network_id: NetworkId) -> Effect:
        """Remove every part of the network, also of a half-made one."""

    def hand_over(self, source: ResolvedNetwork, target: ResolvedNetwork) -> None:
        """Let clients that are connected to machines on `source` go on with those that take their place on `target`.

        To be called when nothing comes in over `source` any more, and nothing over `target` yet. Connections that
        cannot be handed over end; that is no error.
        """

    def bridge_name(self, network: ResolvedNetwork) -> str:
        """The bridge that NICs on this network are joined to. It stays the same whatever the uplink becomes."""

    def namespace(self, network: ResolvedNetwork) -> str:
        """Path of the network namespace from which the network's machines can be reached."""


class Recorder(Protocol):
    """What machines on networks with a recorded uplink tried to do to the world."""

    def intents(self, network_id: NetworkId, *, after: int, limit: int) -> Sequence[Intent]:
        """Those with a sequence above `after`, oldest first. Empty for a network that is not recorded.

        Kept while the network exists on the host, also over restarts of everything.
        """
