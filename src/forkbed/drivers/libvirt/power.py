"""What libvirt's states mean to Forkbed."""

from __future__ import annotations

from typing import Any

import libvirt

from forkbed.core.systems.view import Power

# Steps of libvirt's own on the way to running or off: nobody paused these machines, and nobody may resume them.
_PASSING = frozenset({libvirt.VIR_DOMAIN_PAUSED_STARTING_UP, libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN})
# DAEMON: libvirtd found at its own start that QEMU had gone meanwhile.
_UNWANTED_ENDS = frozenset({libvirt.VIR_DOMAIN_SHUTOFF_CRASHED, libvirt.VIR_DOMAIN_SHUTOFF_DAEMON})


def power_of(domain: Any) -> Power:
    """What the domain is doing. Raises libvirt's error."""
    state, reason = domain.state()
    return power_from(state, reason)


def power_from(state: int, reason: int) -> Power:
    """The meaning of libvirt's state and reason."""
    match state:
        case libvirt.VIR_DOMAIN_RUNNING | libvirt.VIR_DOMAIN_BLOCKED | libvirt.VIR_DOMAIN_SHUTDOWN:
            return Power.RUNNING
        case libvirt.VIR_DOMAIN_PAUSED:
            return Power.RUNNING if reason in _PASSING else Power.PAUSED
        case libvirt.VIR_DOMAIN_PMSUSPENDED:
            return Power.PAUSED
        case libvirt.VIR_DOMAIN_CRASHED:
            return Power.CRASHED
        case _:
            return Power.CRASHED if reason in _UNWANTED_ENDS else Power.OFF


def is_active(domain: Any) -> bool:
    """Whether there is a running or paused guest. Raises libvirt's error."""
    return bool(domain.isActive())
