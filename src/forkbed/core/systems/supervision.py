"""Decide what must be put right although nobody asked: machines that stopped, networks that lost a part. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forkbed.core.systems import digests
from forkbed.core.systems.goal import Goal, Wanted
from forkbed.core.systems.planner import ALIVE
from forkbed.core.systems.spec import ResolvedNetwork, ResolvedSystem, RestartPolicy
from forkbed.core.systems.view import Power, SystemView

FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 60.0


@dataclass(frozen=True, slots=True)
class Deviation:
    """What differs from what is wanted, in words, and the goal that puts it right."""

    reasons: tuple[str, ...]
    goal: Goal


def find_deviation(
    system: ResolvedSystem, wanted: Mapping[str, Wanted], up: bool, view: SystemView
) -> Deviation | None:
    """What to put right of a system that nobody is working on; None if all is as it should be.

    A machine that stopped is started again only if its policy says so. One whose policy is `never`, and one
    that somebody paused or defined but never started, is left alone.
    """
    reasons: list[str] = []
    goals: dict[str, Wanted] = {}
    for machine in system.machines:
        seen = view.machine(machine.id)
        want = wanted.get(machine.name)
        if want is None:
            continue
        if want is Wanted.STOPPED:
            if seen.power in ALIVE:
                reasons.append(f"{machine.name} runs although it was stopped")
                goals[machine.name] = want
            continue
        if seen.power not in ALIVE:
            if machine.spec.restart is RestartPolicy.NEVER:
                continue
            word = "crashed" if seen.power is Power.CRASHED else "is not running"
            reasons.append(f"{machine.name} {word}")
            goals[machine.name] = want
        elif want is Wanted.RUNNING and seen.power is Power.RUNNING:
            goals[machine.name] = want
            ready = (seen.boot_id, digests.readiness_digest(machine))
            if (seen.ready_boot_id, seen.ready_digest) != ready:
                reasons.append(f"{machine.name} was started anew and is not ready yet")
    reasons += _network_reasons(system, up, view)
    return Deviation(tuple(reasons), Goal(goals, networks=up)) if reasons else None


def find_stale_networks(system: ResolvedSystem, up: bool, view: SystemView) -> Deviation | None:
    """What to put right of a generation that only waits: networks that may still lead out. Nothing else is missed."""
    reasons = [
        f"network {network.spec.name} is not as declared"
        for network in (system.networks if up else ())
        if network.id in view.networks and not _is_as_declared(system, network, view)
    ]
    return Deviation(tuple(reasons), Goal({}, networks=True)) if reasons else None


def _network_reasons(system: ResolvedSystem, up: bool, view: SystemView) -> list[str]:
    if not up:
        return []
    reasons = []
    for network in system.networks:
        seen = view.networks.get(network.id)
        if seen is None:
            reasons.append(f"network {network.spec.name} is missing")
        elif not seen.healthy:
            reasons.append(f"network {network.spec.name} lost a part")
        elif not _is_as_declared(system, network, view):
            reasons.append(f"network {network.spec.name} is not as declared")
    return reasons


def _is_as_declared(system: ResolvedSystem, network: ResolvedNetwork, view: SystemView) -> bool:
    return view.networks[network.id].digest == digests.network_digest(system, network)


def backoff_s(failures: int) -> float:
    """How long to wait before the next try after that many failures in a row."""
    if failures <= 0:
        return 0.0
    return float(min(FIRST_BACKOFF_S * 2 ** min(failures - 1, 10), LONGEST_BACKOFF_S))
