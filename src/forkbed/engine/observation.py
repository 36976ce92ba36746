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

    A seed whose machine is not defined is shown as a machine that is ABSENT, so that it is not forgotten.
    """
    marks = store.ready_marks()
    seeds = host.guests.seed_digests()
    machines: dict[SystemId, dict[MachineId, MachineView]] = {}
    owners: dict[MachineId, SystemId] = {
        machine.id: system.id for system in store.systems() for machine in system.resolved.machines
    }
    for seen in host.hypervisor.machines():
        mark = marks.get(seen.machine_id)
        machines.setdefault(seen.system_id, {})[seen.machine_id] = MachineView(
            machine_id=seen.machine_id,
            power=seen.power,
            name=seen.name,
            definition_digest=seen.definition_digest,
            running_digest=seen.running_digest,
            boot_id=seen.boot_id,
            ready_boot_id=mark.boot_id if mark else "",
            ready_digest=mark.digest if mark else "",
        )
        owners[seen.machine_id] = seen.system_id
    for machine_id, digest in seeds.items():
        of_system = machines.setdefault(owners.get(machine_id, SystemId("")), {})
        known = of_system.get(machine_id) or MachineView(machine_id, Power.ABSENT)
        of_system[machine_id] = replace(known, seed_digest=digest)
    volumes: dict[SystemId, dict[VolumeId, VolumeView]] = {}
    for volume in host.volumes.volumes():
        volumes.setdefault(volume.system_id, {})[volume.volume_id] = volume
    networks: dict[SystemId, dict[NetworkId, NetworkView]] = {}
    for network in host.networks.networks():
        networks.setdefault(network.system_id, {})[network.network_id] = network
    return {
        system_id: SystemView(
            machines.get(system_id, {}), volumes.get(system_id, {}), networks.get(system_id, {})
        )
        for system_id in machines.keys() | volumes.keys() | networks.keys()
    }


def observe(host: Host, store: Store, system_id: SystemId) -> SystemView:
    """What is on the host of one system."""
    return observe_all(host, store).get(system_id) or SystemView()
