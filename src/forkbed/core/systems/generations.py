"""Decide what becomes of a live system and its next generation when they change places. Pure.

The two exchange their machines, volumes and networks; name, declaration and the way out stay with the system. What
leaves keeps nothing that leads out, and what comes gets exactly what the other had: never do both have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from forkbed.base.ids import SnapshotId
from forkbed.core.systems.spec import (
    ForkOrigin,
    NetworkSpec,
    ResolvedMachine,
    ResolvedNetwork,
    ResolvedSystem,
    UplinkKind,
)

_NONE = SnapshotId("")  # it was not cut from anything: it is what was live


@dataclass(frozen=True, slots=True)
class Exchange:
    """`live` is the system as it is from now on, `kept` what it was until now, in the other one's place."""

    live: ResolvedSystem
    kept: ResolvedSystem


def kept_name(system: str, generation: int) -> str:
    """What the system that holds a generation is called: no person can choose such a name."""
    return f"{system}@{generation}"


def exchange(live: ResolvedSystem, other: ResolvedSystem, *, generation: int, at: float) -> Exchange:
    """Let `other` take the place of `live`, whose generation that number was. `at`: seconds since the epoch."""
    declared = {network.spec.name: network for network in live.networks}
    publishing = {machine.name: machine.spec.publish for machine in live.machines}
    coming = replace(
        live,
        revision=live.revision + 1,
        networks=tuple(_opened(network, declared) for network in other.networks),
        machines=tuple(
            _moved(
                replace(machine, spec=replace(machine.spec, publish=publishing.get(machine.name, ()))), other
            )
            for machine in other.machines
        ),
    )
    leaving = replace(
        live,
        id=other.id,
        name=kept_name(live.name, generation),
        revision=other.revision,
        networks=tuple(_closed(network) for network in live.networks),
        machines=tuple(
            _moved(replace(machine, spec=replace(machine.spec, publish=())), live)
            for machine in live.machines
        ),
        lineage=(*live.lineage, live.id),
        origin=ForkOrigin(
            live.id, live.name, snapshot_id=_NONE, snapshot="", cut_at=at, revision=live.revision
        ),
        known_as=live.inner_name,
    )
    return Exchange(coming, leaving)


def _moved(machine: ResolvedMachine, home: ResolvedSystem) -> ResolvedMachine:
    return replace(machine, born_in=machine.born_in or home.name)


def _opened(network: ResolvedNetwork, declared: Mapping[str, ResolvedNetwork]) -> ResolvedNetwork:
    before = declared.get(network.spec.name)
    if before is None:
        return network
    spec: NetworkSpec = replace(network.spec, uplink=before.spec.uplink, bridge=before.spec.bridge)
    return replace(network, spec=spec, transit=before.transit)


def _closed(network: ResolvedNetwork) -> ResolvedNetwork:
    return replace(network, spec=replace(network.spec, uplink=UplinkKind.NONE, bridge=""), transit=None)
