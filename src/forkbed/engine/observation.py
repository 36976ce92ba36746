"""Look at a host: what is there of each system. Only facts; what they mean is decided in `core`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from forkbed.base.ids import MachineId, NetworkId, SystemId, VolumeId
from forkbed.core.systems.view import MachineView, NetworkView, Power, SystemView, VolumeView
from forkbed.engine.host import Host
from forkbed.ports.store import Store


def observe_all(host: Host, store: Store) -> Mapping[SystemId, SystemView]:
    """Everything on the host that bears the installation's id, by system.

    Whose something is that a system declares, the store says: what generations exchange keeps the labels it was
    born with; so does a volume that none declares any more, but its machine. A seed whose machine is not defined is
    shown as a machine that is ABSENT, so that it is not forgotten.
    """
    marks = store.ready_marks()
    seeds = host.guests.seed_digests()
    machines: dict[SystemId, dict[MachineId, MachineView]] = {}
    owners: dict[str, SystemId] = {}
    for system in store.systems():
        for machine in system.resolved.machines:
            owners |= dict.fromkeys((machine.id, *(volume.id for volume in machine.volumes)), system.id)
        owners |= {network.id: system.id for network in system.resolved.networks}
    for seen in host.hypervisor.machines():
        mark = marks.get(seen.machine_id)
        owner = owners.setdefault(seen.machine_id, seen.system_id)
        machines.setdefault(owner, {})[seen.machine_id] = MachineView(
            machine_id=seen.machine_id,
            power=seen.power,
            name=seen.name,
            definition_digest=seen.definition_digest,
            running_digest=seen.running_digest,
            boot_id=seen.boot_id,
            ready_boot_id=mark.boot_id if mark else "",
            ready_digest=mark.digest if mark else "",
        )
    for machine_id, digest in seeds.items():
        of_system = machines.setdefault(owners.get(machine_id, SystemId("")), {})
        known = of_system.get(machine_id) or MachineView(machine_id, Power.ABSENT)
        of_system[machine_id] = replace(known, seed_digest=digest)
    volumes: dict[SystemId, dict[VolumeId, VolumeView]] = {}
    for volume in host.volumes.volumes():
        owner = owners.get(volume.volume_id) or owners.get(volume.machine_id) or volume.system_id
        volumes.setdefault(owner, {})[volume.volume_id] = volume
    networks: dict[SystemId, dict[NetworkId, NetworkView]] = {}
    for network in host.networks.networks():
        owner = owners.get(network.network_id, network.system_id)
        networks.setdefault(owner, {})[network.network_id] = network
    return {
        system_id: SystemView(
            machines.get(system_id, {}), volumes.get(system_id, {}), networks.get(system_id, {})
        )
        for system_id in machines.keys() | volumes.keys() | networks.keys()
    }


def observe(host: Host, store: Store, system_id: SystemId) -> SystemView:
    """What is on the host of one system."""
    return observe_all(host, store).get(system_id) or SystemView()
