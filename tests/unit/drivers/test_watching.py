"""Resets that happened while nobody watched, told by guests that may be booting when they are asked."""

from __future__ import annotations

import queue
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import libvirt

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId
from forkbed.drivers.libvirt.boots import Boots
from forkbed.drivers.libvirt.connection import Connected, Connection, DomainEvent
from forkbed.drivers.libvirt.watching import Watching
from forkbed.ports.hypervisor import MachineEvent, MachineEventKind

UUID = "8f5a3a3e-0000-4000-8000-000000000001"
AGENT_CAME = DomainEvent(
    libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
    UUID,
    libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED,
)


class Guests:
    """One domain behind a connection, and the boot its guest tells of: None while no agent answers."""

    def __init__(self) -> None:
        self.was_reset: bool | None = None
        self.asked: queue.Queue[str] = queue.Queue()
        self.domain = SimpleNamespace(UUIDString=lambda: UUID)

    def call(self, function: Callable[[Any], Any], **_: object) -> Any:
        connection = SimpleNamespace(
            listAllDomains=lambda _: [self.domain], lookupByUUIDString=lambda _: self.domain
        )
        return function(connection)

    def compare_kernel(self, _domain: Any) -> bool:
        self.asked.put("compare")
        if self.was_reset is None:
            raise OperationalError(Kind.UNREACHABLE, "guest", "does not answer")
        return self.was_reset

    def learn_kernel(self, _domain: Any) -> None:
        self.asked.put("learn")


def test_a_guest_that_boots_while_it_is_asked_is_asked_again() -> None:
    guests, told = Guests(), queue.Queue[MachineEvent]()
    watching = Watching(cast("Boots", guests), lambda _: MachineId("m1"))
    watching.attach(cast("Connection", guests))
    watching.add(told.put)
    watching.on_event(Connected(again=False))
    assert guests.asked.get(timeout=10) == "compare"
    guests.was_reset = True
    watching.on_event(AGENT_CAME)
    assert guests.asked.get(timeout=10) == "compare"
    event = told.get(timeout=10)
    assert (event.kind, event.machine_id) == (MachineEventKind.RESET, "m1")
    watching.on_event(AGENT_CAME)
    assert guests.asked.get(timeout=10) == "learn", "it has said which boot it is in"
