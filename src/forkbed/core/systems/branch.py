"""Decide what a fork, or a system that is rolled back, is made of. Pure.

Both take everything from a snapshot: machines, addresses, MACs and instance ids stay, volumes begin where the
snapshot's cut ended. A fork gets ids of its own and no way out; a rollback keeps the system's own ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network

from forkbed.base.ids import DrawId, InstallationId, MachineId, NetworkId, SystemId, VolumeId
from forkbed.core.networks.addresses import choose_transit
from forkbed.core.networks.names import tap_name
from forkbed.core.snapshots.records import FreezeMethod, MachineCut, Snapshot
from forkbed.core.systems.goal import Goal, MemoryRef, Wanted
from forkbed.core.systems.spec import (
    ForkOrigin,
    NetworkSpec,
    ResolvedMachine,
    ResolvedNetwork,
    ResolvedSystem,
    SystemSpec,
    UplinkKind,
    VolumeOrigin,
)
from forkbed.core.systems.view import Power

_WITH_MEMORY = (FreezeMethod.BACKGROUND, FreezeMethod.PAUSED)


@dataclass(frozen=True, slots=True)
class Draws:
    """The installation, and where new ids come from."""

    installation: InstallationId
    draw_id: DrawId
    draw_uuid: Callable[[], str]


@dataclass(frozen=True, slots=True)
class _Place:
    """Which machine of the host one of the snapshot becomes. `born_in`: as of a `ResolvedMachine`; a new one has
    no name yet that would stay."""

    machine_id: MachineId
    uuid: str
    born_in: str = ""


def isolated(spec: SystemSpec) -> SystemSpec:
    """The declaration as a fork may have it: every way out ends in a recorder, and nothing is published."""
    return replace(
        spec,
        networks=tuple(_isolated_network(network) for network in spec.networks),
        machines=tuple(replace(machine, publish=()) for machine in spec.machines),
    )


def fork_system(snapshot: Snapshot, name: str, draws: Draws, *, own_cut: bool = False) -> ResolvedSystem:
    """The fork of that name, as it is made of the snapshot. With `own_cut` the snapshot is made for it alone."""
    source = snapshot.resolved
    networks = {
        network.id: ResolvedNetwork(
            id=NetworkId(draws.draw_id(8)),
            lineage_id=network.lineage_id,
            spec=_isolated_network(network.spec),
            gateway=network.gateway,
            transit=None,
        )
        for network in source.networks
    }
    places = {m.name: _Place(MachineId(draws.draw_id(8)), draws.draw_uuid()) for m in source.machines}
    machines = _machines(snapshot, networks, places, draws)
    return ResolvedSystem(
        id=SystemId(draws.draw_id(8)),
        name=name,
        revision=1,
        networks=tuple(networks.values()),
        machines=tuple(replace(m, spec=replace(m.spec, publish=())) for m in machines),
        labels=source.labels,
        lineage=(*source.lineage, snapshot.system_id),
        origin=ForkOrigin(
            system_id=snapshot.system_id,
            system=source.name,
            snapshot_id=snapshot.id,
            snapshot="" if own_cut else snapshot.name,
            cut_at=snapshot.cut_at,
            revision=source.revision,
        ),
        known_as=source.inner_name,
    )


def roll_back(
    current: ResolvedSystem,
    snapshot: Snapshot,
    draws: Draws,
    *,
    transit_pool: IPv4Network,
    taken_transits: frozenset[IPv4Network],
) -> ResolvedSystem:
    """The system as it was at the snapshot, as its next revision. CONFLICT if the transit pool is used up."""
    taken = set(taken_transits) | {n.transit for n in current.networks if n.transit is not None}
    known = {network.spec.name: network for network in current.networks}
    networks = {}
    for network in snapshot.resolved.networks:
        now = known.get(network.spec.name)
        transit = None
        if network.transit is not None:
            transit = now.transit if now is not None and now.transit is not None else None
            if transit is None:
                transit = choose_transit(transit_pool, taken)
                taken.add(transit)
        network_id = now.id if now is not None else network.id
        networks[network.id] = replace(network, id=network_id, transit=transit)
    present = {m.name: _Place(m.id, m.uuid, m.born_in) for m in current.machines}
    places = {
        m.name: present.get(m.name, _Place(m.id, m.uuid, m.born_in)) for m in snapshot.resolved.machines
    }
    return replace(
        snapshot.resolved,
        revision=current.revision + 1,
        networks=tuple(networks.values()),
        machines=tuple(_machines(snapshot, networks, places, draws)),
    )


def branch_goal(snapshot: Snapshot, system: ResolvedSystem, *, cold: bool, up: bool) -> Goal:
    """Every machine as it was at the cut, from its memory if there is one and `cold` does not forbid it."""
    cuts = {cut.name: cut for cut in snapshot.machines}
    wanted = {machine.name: _wanted(cuts.get(machine.name), cold=cold) for machine in system.machines}
    restore = {}
    for machine in system.machines:
        cut = cuts.get(machine.name)
        if cut is not None and cut.method in _WITH_MEMORY and not cold:
            restore[machine.id] = MemoryRef(snapshot.id, cut.machine_id)
    runs = any(want is not Wanted.STOPPED for want in wanted.values())
    return Goal(wanted, networks=up or runs, restore=restore)


def rollback_goal(snapshot: Snapshot, before: ResolvedSystem, after: ResolvedSystem, *, up: bool) -> Goal:
    """`branch_goal` for a system whose present machines and volumes give way; a snapshot keeps what they held."""
    names = {machine.name for machine in (*before.machines, *after.machines)}
    goal = branch_goal(snapshot, after, cold=False, up=up)
    return replace(goal, may_restart=True, may_destroy=frozenset(names), stop_timeout_s=0.0)


def waking_goal(saved: Snapshot, before: ResolvedSystem, after: ResolvedSystem) -> Goal:
    """`rollback_goal` for a generation that only waits: what ran at the cut comes back too, and stands still."""
    goal = rollback_goal(saved, before, after, up=True)
    wanted = {
        machine.name: Wanted.PAUSED if machine.id in goal.restore else Wanted.STOPPED
        for machine in after.machines
    }
    return replace(goal, wanted=wanted)


def is_still_saved(
    snapshot: Snapshot, kept: ResolvedSystem, *, kept_at: float | None, changed_at: float
) -> bool:
    """Whether the snapshot holds all that the kept generation is. It ran on after the cut if somebody changed it
    (`changed_at`) since it was kept; and a snapshot of other machines is of the generation that had its place before.
    """
    machines = {machine.id for machine in kept.machines}
    is_of_it = machines == {machine.id for machine in snapshot.resolved.machines}
    return is_of_it and changed_at <= max(snapshot.created_at, kept_at or 0.0)


def _wanted(cut: MachineCut | None, *, cold: bool) -> Wanted:
    if cut is None or cut.power not in (Power.RUNNING, Power.PAUSED):
        return Wanted.STOPPED
    # without its memory there is nothing that could stand still
    has_memory = cut.method in _WITH_MEMORY and not cold
    return Wanted.PAUSED if cut.power is Power.PAUSED and has_memory else Wanted.RUNNING


def _isolated_network(spec: NetworkSpec) -> NetworkSpec:
    leads_out = spec.uplink is not UplinkKind.NONE
    return replace(spec, uplink=UplinkKind.RECORDED if leads_out else UplinkKind.NONE)


def _machines(
    snapshot: Snapshot,
    networks: Mapping[NetworkId, ResolvedNetwork],
    places: Mapping[str, _Place],
    draws: Draws,
) -> list[ResolvedMachine]:
    machines = []
    for machine in snapshot.resolved.machines:
        place = places[machine.name]
        volumes = tuple(
            replace(
                volume,
                id=VolumeId(draws.draw_id(10)),
                origin=VolumeOrigin(snapshot.id, volume.id),
            )
            for volume in machine.volumes
        )
        nics = tuple(
            replace(
                nic,
                network_id=networks[nic.network_id].id,
                tap=tap_name(draws.installation, place.machine_id, position),
            )
            for position, nic in enumerate(machine.nics)
        )
        machines.append(
            replace(
                machine,
                id=place.machine_id,
                uuid=place.uuid,
                generation_uuid=draws.draw_uuid(),
                born_in=place.born_in,
                nics=nics,
                volumes=volumes,
            )
        )
    return machines
