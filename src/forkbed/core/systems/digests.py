"""Digests of what was declared, so that "is it as wanted?" is one comparison with what the host shows. Pure.

Each covers exactly what takes effect together: a network, a machine's definition (a restart applies it), its
seed (read at boot), and its readiness (set-up commands and probes, applied live).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from forkbed.core.systems.spec import (
    ResolvedMachine,
    ResolvedNetwork,
    ResolvedSystem,
)


def _plain(value: object) -> object:
    names = getattr(type(value), "__dataclass_fields__", None)
    if names is not None:  # not `asdict`: its deep copies cost most of a plan of a thousand machines
        return {name: getattr(value, name) for name in names}
    if isinstance(value, (IPv4Address, IPv4Network)):
        return str(value)
    raise TypeError(f"no plain form for {type(value).__name__}")


def _digest(*parts: object) -> str:
    text = json.dumps(parts, default=_plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def network_digest(system: ResolvedSystem, network: ResolvedNetwork) -> str:
    """Of a network and of everything about its members that its filters, names and ports depend on."""
    members = [
        (machine.name, [nic for nic in machine.nics if nic.network_id == network.id], machine.spec.publish)
        for machine in network_members(system, network)
    ]
    return _digest("network", system.inner_name, network, members)


def network_members(system: ResolvedSystem, network: ResolvedNetwork) -> Sequence[ResolvedMachine]:
    """The machines with a NIC on the network, in the system's order."""
    return [m for m in system.machines if any(nic.network_id == network.id for nic in m.nics)]


def seed_digest(system: ResolvedSystem, machine: ResolvedMachine) -> str:
    """Of all that the guest takes from its seed disk."""
    spec = machine.spec
    mounts = [(volume.name, volume.mount, volume.filesystem) for volume in machine.volumes[1:]]
    return _digest(
        "seed",
        system.inner_name,
        machine.name,
        machine.instance_id,
        spec.files,
        spec.secrets,
        spec.users,
        spec.root_keys,
        spec.cloud_init,
        mounts,
        machine.nics,
    )


def definition_digest(system: ResolvedSystem, machine: ResolvedMachine) -> str:
    """Of all that a start of the machine fixes: shape, disks, NICs and the seed it boots from."""
    # The subnet's length too: a guest learns it when it asks for its address. The empty word stood for a bridge of
    # the host; without it every machine of an earlier version would seem to need a restart.
    wires = [("", system.network(nic.network_id).spec.subnet) for nic in machine.nics]
    return _digest(
        "definition",
        machine.uuid,
        machine.generation_uuid,
        machine.spec.cpus,
        machine.spec.memory_bytes,
        machine.image_id,
        machine.nics,
        wires,
        [(volume.id, volume.name, volume.size_bytes) for volume in machine.volumes],
        seed_digest(system, machine),
    )


def readiness_digest(machine: ResolvedMachine) -> str:
    """Of what a boot has to pass before it counts as ready."""
    return _digest("readiness", machine.spec.setup, machine.spec.ready)
