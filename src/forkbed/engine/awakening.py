"""Have a guest that goes on after it stood still notice so, and keep what of that was not to be had."""

from __future__ import annotations

import hashlib

from forkbed.core.operations.records import Event
from forkbed.core.systems.spec import ResolvedMachine
from forkbed.engine.host import Host
from forkbed.ports.progress import Progress
from forkbed.ports.store import Store

_TIMEOUT_S = 10.0


def awaken(host: Host, store: Store, system: str, machine: ResolvedMachine, progress: Progress) -> None:
    """Tell it the time and stir its randomness; an event `machine.not-awakened` says what of it failed."""
    now = host.clock.now()
    lacking = host.awakening.awaken(machine, now, _entropy_of(machine), _TIMEOUT_S)
    if not lacking:
        return
    progress.tell(lacking)
    # nobody tries again, and two forks may draw the same keys: that has to be found later too
    store.add_event(
        Event(
            sequence=0,
            at=host.clock.now(),
            kind="machine.not-awakened",
            system=system,
            machine=machine.name,
            attributes={"lacking": lacking, "host": host.name},
        )
    )


def _entropy_of(machine: ResolvedMachine) -> bytes:
    """64 bytes drawn for this branch of the machine alone: no two forks of one cut stir the same into theirs."""
    return hashlib.sha512(f"{machine.generation_uuid} {machine.id}".encode()).digest()
