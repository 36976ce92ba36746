"""The veth pair by which a network's own bridge leads to a bridge of the host.

Guests are joined to their network's bridge for as long as they run; only this port moves when the way out goes from one
generation of a system to the next. Both ends bear the installation's prefix, so what no filter marked is dropped at
either. Of the host's bridge nothing is changed but that it has one port more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from forkbed.base.ids import InstallationId, NetworkId
from forkbed.core.networks import names
from forkbed.core.networks.addresses import derive_mac
from forkbed.core.systems.spec import ResolvedNetwork
from forkbed.drivers.networks import namespaces
from forkbed.drivers.networks.links import Link, Links, ensure_no_ipv6

_USUAL_MTU = 1500


@dataclass(frozen=True, slots=True)
class UplinkPort:
    """One network's port, by name: `inner` on its own bridge, `outer` on the host's."""

    bridge: str
    inner: str
    outer: str

    @classmethod
    def of(cls, installation: InstallationId, network_id: NetworkId) -> UplinkPort:
        """The port that the network has, if it has one."""
        return cls(
            names.bridge_name(installation, network_id),
            names.uplink_port_name(installation, network_id),
            names.outer_port_name(installation, network_id),
        )

    def ensure(self, links: Links, host_bridge: str, network: ResolvedNetwork) -> tuple[bool, bool]:
        """Join the network's bridge to the host's; whether anything was done, and whether it was joined just now.

        The port has the MTU that the host's bridge had: a smaller one would lower the bridge's. Its MAC is the same in
        every generation, and higher than those of virtual machines' taps, which begin with fe too: a bridge that was
        given none takes the lowest of its ports'.
        """
        outside, outer = links.find(host_bridge), links.find(self.outer)
        made = links.ensure_veth(
            self.inner,
            self.outer,
            Path(namespaces.HERE),
            outer.index if outer is not None else None,
            outside.mtu if outside is not None else _USUAL_MTU,
        )
        changed = ensure_no_ipv6(self.outer) or made
        mac = derive_mac(network.lineage_id, network.spec.subnet.network_address)
        changed |= links.ensure_up(self.outer, mac=f"fe:ff{mac[2:-3]}")
        changed |= links.ensure_master(self.inner, self.bridge)
        changed |= links.ensure_up(self.inner)
        links.await_carrier(self.inner, self.outer)  # also if somebody died right after making it
        joined = links.ensure_master(self.outer, host_bridge)
        return changed or joined, joined

    def ensure_absent(self, links: Links) -> bool:
        """Take the port away, both ends; returns whether it was there."""
        return links.ensure_absent(self.inner)

    def is_whole(self, host_bridge: str, interfaces: Mapping[str, Link]) -> bool:
        """Whether it joins the network's bridge to that one."""
        outside, bridge = interfaces.get(host_bridge), interfaces.get(self.bridge)
        inner, outer = interfaces.get(self.inner), interfaces.get(self.outer)
        return (
            outside is not None
            and outside.kind == "bridge"
            and bridge is not None
            and inner is not None
            and inner.has_carrier
            and inner.master_index == bridge.index
            and outer is not None
            and outer.master_index == outside.index
        )
