"""Decide what a manifest leaves open (ids, addresses, MACs, transit subnets) and keep what was decided before.

Pure. A machine keeps its id, addresses and volumes from revision to revision as long as its name and what
they depend on stay; a volume that has to be made anew (another image, a smaller size) gets a new id, so that
old and new data are never the same thing by mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from forkbed.base.ids import DrawId, ImageId, InstallationId, MachineId, NetworkId, SystemId, VolumeId
from forkbed.core.networks.addresses import allocate, choose_transit, derive_mac, gateway_of, usable_addresses
from forkbed.core.networks.names import tap_name
from forkbed.core.systems.spec import (
    MachineSpec,
    NetworkSpec,
    NicSpec,
    ResolvedMachine,
    ResolvedNetwork,
    ResolvedNic,
    ResolvedSystem,
    ResolvedVolume,
    SystemSpec,
    UplinkKind,
)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What resolving needs to know of an image: its content and the size of the disk it holds."""

    image_id: ImageId
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is decided outside one system: the installation, the pool, what others took, and randomness."""

    installation: InstallationId
    images: Mapping[str, ImageFacts]  # by reference as written
    transit_pool: IPv4Network
    taken_transits: frozenset[IPv4Network]
    draw_id: DrawId
    draw_uuid: Callable[[], str]


def resolve_system(spec: SystemSpec, before: ResolvedSystem | None, around: Surroundings) -> ResolvedSystem:
    """The system with everything decided. CONFLICT if a subnet or the transit pool has no address left.

    The result has the revision of `before`; the caller gives it the next one if it differs.
    """
    return _Resolver(spec, before, around).resolve()


class _Resolver:
    def __init__(self, spec: SystemSpec, before: ResolvedSystem | None, around: Surroundings) -> None:
        self._spec = spec
        self._before = before
        self._around = around
        self._old_networks = {network.spec.name: network for network in before.networks} if before else {}
        self._old_machines = {machine.name: machine for machine in before.machines} if before else {}
        self._transits = set(around.taken_transits)
        self._addresses: dict[tuple[str, int], IPv4Address] = {}

    def resolve(self) -> ResolvedSystem:
        before = self._before
        self._transits |= {n.transit for n in self._old_networks.values() if n.transit is not None}
        networks = {network.name: self._network(network) for network in self._spec.networks}
        for network in self._spec.networks:
            self._allocate(network)
        machines = tuple(self._machine(machine, networks) for machine in self._spec.machines)
        return ResolvedSystem(
            id=before.id if before else SystemId(self._around.draw_id(8)),
            name=self._spec.name,
            revision=before.revision if before else 1,
            networks=tuple(networks.values()),
            machines=machines,
            labels=self._spec.labels,
            lineage=before.lineage if before else (),
            origin=before.origin if before else None,
            known_as=before.known_as if before else "",
        )

    def _network(self, spec: NetworkSpec) -> ResolvedNetwork:
        old = self._old_networks.get(spec.name)
        network_id = old.id if old else NetworkId(self._around.draw_id(8))
        return ResolvedNetwork(
            id=network_id,
            lineage_id=old.lineage_id if old else network_id,
            spec=spec,
            gateway=gateway_of(spec.subnet),
            transit=self._transit(spec, old),
        )

    def _transit(self, spec: NetworkSpec, old: ResolvedNetwork | None) -> IPv4Network | None:
        published = any(
            machine.publish and machine.nics[0].network == spec.name
            for machine in self._spec.machines
            if machine.nics
        )
        if spec.uplink is UplinkKind.BRIDGE or (spec.uplink is UplinkKind.NONE and not published):
            return None
        if old is not None and old.transit is not None:
            return old.transit
        transit = choose_transit(self._around.transit_pool, self._transits)
        self._transits.add(transit)
        return transit

    def _allocate(self, network: NetworkSpec) -> None:
        """Give each NIC on the network its address: as written, as it had before, or a free one."""
        nics = [
            (machine, position)
            for machine in self._spec.machines
            for position, nic in enumerate(machine.nics)
            if nic.network == network.name
        ]
        written = {machine.nics[position].address for machine, position in nics}
        wanted = [
            machine.nics[position].address or self._kept_address(machine, position, written)
            for machine, position in nics
        ]
        for (machine, position), address in zip(nics, allocate(network.subnet, wanted), strict=True):
            self._addresses[machine.name, position] = address

    def _kept_address(
        self, machine: MachineSpec, position: int, written: Collection[IPv4Address | None]
    ) -> IPv4Address | None:
        """The address that the NIC was given before, if it is still on that network and nobody asks for it."""
        old = self._old_machines.get(machine.name)
        if old is None or position >= len(old.nics) or self._before is None:
            return None
        network_name = machine.nics[position].network
        old_nic = old.nics[position]
        subnet = next(n.subnet for n in self._spec.networks if n.name == network_name)
        same = self._before.network(old_nic.network_id).spec.name == network_name
        usable = int(old_nic.address) in usable_addresses(subnet)
        return old_nic.address if same and usable and old_nic.address not in written else None

    def _machine(self, spec: MachineSpec, networks: Mapping[str, ResolvedNetwork]) -> ResolvedMachine:
        old = self._old_machines.get(spec.name)
        image = self._around.images[spec.image]
        machine_id = old.id if old else MachineId(self._around.draw_id(8))
        nics = tuple(
            self._nic(spec, position, nic, networks[nic.network], machine_id)
            for position, nic in enumerate(spec.nics)
        )
        root = self._root_volume(spec, image, old)
        # a new root volume is a new instance: the guest takes its seed anew and makes new host keys
        instance_id = old.instance_id if old and old.volumes[0].id == root.id else self._around.draw_id(12)
        return ResolvedMachine(
            id=machine_id,
            spec=spec,
            image_id=image.image_id,
            nics=nics,
            volumes=(root, *self._data_volumes(spec, old)),
            instance_id=instance_id,
            generation_uuid=old.generation_uuid if old else self._around.draw_uuid(),
            uuid=old.uuid if old else self._around.draw_uuid(),
        )

    def _nic(
        self,
        machine: MachineSpec,
        position: int,
        spec: NicSpec,
        network: ResolvedNetwork,
        machine_id: MachineId,
    ) -> ResolvedNic:
        address = self._addresses[machine.name, position]
        return ResolvedNic(
            network_id=network.id,
            address=address,
            mac=spec.mac or derive_mac(network.lineage_id, address),
            tap=tap_name(self._around.installation, machine_id, position),
        )

    def _root_volume(
        self, spec: MachineSpec, image: ImageFacts, old: ResolvedMachine | None
    ) -> ResolvedVolume:
        size = spec.root_size_bytes or image.size_bytes
        if old is not None:
            root = old.volumes[0]
            if root.image_id == image.image_id and root.size_bytes <= size:
                return replace(root, size_bytes=size)
        return ResolvedVolume(self._new_volume_id(), "root", size, image.image_id)

    def _data_volumes(self, spec: MachineSpec, old: ResolvedMachine | None) -> list[ResolvedVolume]:
        before = {volume.name: volume for volume in old.volumes[1:]} if old else {}
        volumes = []
        for volume in spec.volumes:
            had = before.get(volume.name)
            kept = had is not None and had.size_bytes <= volume.size_bytes
            volumes.append(
                ResolvedVolume(
                    had.id if had is not None and kept else self._new_volume_id(),
                    volume.name,
                    volume.size_bytes,
                    mount=volume.mount,
                    filesystem=volume.filesystem,
                    origin=had.origin if had is not None and kept else None,
                )
            )
        return volumes

    def _new_volume_id(self) -> VolumeId:
        return VolumeId(self._around.draw_id(10))
