"""Names of a network's parts on a host. Pure.

Every name begins with the installation's prefix, so clean-up and filters can tell what is ours by name alone.
Interface names have at most 15 characters; the parts that do not fit are hashed.
"""

from __future__ import annotations

import hashlib

from forkbed.base.ids import InstallationId, MachineId, NetworkId


def interface_prefix(installation: InstallationId) -> str:
    """What the names of all the installation's interfaces on a host begin with: `fb` and its id."""
    return f"fb{installation}"


def bridge_name(installation: InstallationId, network: NetworkId) -> str:
    """The network's bridge, and the nftables table of its filters; 14 characters."""
    return f"{interface_prefix(installation)}{_short_hash(network)}"


def service_port_name(installation: InstallationId, network: NetworkId) -> str:
    """The host's end of the veth between the bridge and the service namespace; 15 characters."""
    return f"{bridge_name(installation, network)}s"


def transit_name(installation: InstallationId, network: NetworkId) -> str:
    """The host's end of the veth that leads from the service namespace outwards; 15 characters."""
    return f"{bridge_name(installation, network)}t"


def uplink_port_name(installation: InstallationId, network: NetworkId) -> str:
    """The end on the network's bridge of the veth that leads to a bridge of the host; 15 characters."""
    return f"{bridge_name(installation, network)}u"


def outer_port_name(installation: InstallationId, network: NetworkId) -> str:
    """The end of that veth on the host's bridge; 15 characters."""
    return f"{bridge_name(installation, network)}o"


def tap_name(installation: InstallationId, machine: MachineId, nic_index: int) -> str:
    """The host's end of a machine's NIC, counted from 0; 14 characters."""
    return f"{interface_prefix(installation)}{_short_hash(f'{machine}/{nic_index}')}"


def namespace_prefix(installation: InstallationId) -> str:
    """What the names of all the installation's service namespaces begin with."""
    return f"fb-{installation}-"


def namespace_name(installation: InstallationId, network: NetworkId) -> str:
    """The network's service namespace, a file in /run/netns."""
    return f"{namespace_prefix(installation)}{network}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
