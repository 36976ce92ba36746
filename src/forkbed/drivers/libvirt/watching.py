"""Turn libvirt's events into Forkbed's, and keep the boots' count right on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import libvirt
import structlog

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId
from forkbed.drivers.libvirt.boots import Boots
from forkbed.drivers.libvirt.connection import Connected, Connection, DomainEvent, Event, Lost
from forkbed.ports.hypervisor import MachineEvent, MachineEventKind

Listener = Callable[[MachineEvent], None]
_TIMEOUT_S = 20.0
_ECHO_S = 0.5  # no guest comes to a second reset of its own that soon
_LIFECYCLE = {
    libvirt.VIR_DOMAIN_EVENT_STARTED: MachineEventKind.STARTED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED: MachineEventKind.STOPPED,
    libvirt.VIR_DOMAIN_EVENT_CRASHED: MachineEventKind.CRASHED,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: MachineEventKind.PAUSED,
    libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED: MachineEventKind.PAUSED,
    libvirt.VIR_DOMAIN_EVENT_RESUMED: MachineEventKind.RESUMED,
}
_STOP_REASONS = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: "the guest shut down",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: "it was ended",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: "it crashed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: "QEMU failed",
}
_BAD_STOPS = (libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED, libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED)
_log = structlog.get_logger(__name__)


class Watching:
    """Receives a connection's events and tells listeners. `identify` says which of our machines a domain is."""

    def __init__(self, boots: Boots, identify: Callable[[Any], MachineId | None]) -> None:
        self._boots = boots
        self._identify = identify
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._last_reset: dict[str, float] = {}
        self._uncompared: set[str] = set()  # domains whose guests have not said yet which boot they are in
        self._known: dict[str, MachineId] = {}  # by domain UUID: an undefined domain cannot be asked any more

    def attach(self, connection: Connection) -> None:
        """The connection through which to ask back; the two need each other."""
        self._connection = connection

    def add(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` from now on; returns what ends it."""
        with self._lock:
            self._listeners.append(listener)

        def end() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    def on_event(self, event: Event) -> None:
        """Called by the connection, one event after another."""
        match event:
            case Lost():
                self._tell(MachineEvent(MachineEventKind.CONNECTION_LOST, MachineId(""), "libvirtd is gone"))
            case Connected(again=again):
                threading.Thread(target=self._compare_all, name="libvirt-boots", daemon=True).start()
                if again:
                    detail = "libvirtd is back; events in between were missed"
                    self._tell(MachineEvent(MachineEventKind.CONNECTION_LOST, MachineId(""), detail))
            case DomainEvent():
                self._on_domain(event)

    def _on_domain(self, event: DomainEvent) -> None:
        machine_id = self._machine_of(event.uuid)
        if machine_id is None:
            return
        match event.event_id:
            case libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE:
                if event.event == libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED:
                    threading.Thread(
                        target=self._on_agent, args=(event.uuid,), name="libvirt-boot", daemon=True
                    ).start()
            case libvirt.VIR_DOMAIN_EVENT_ID_REBOOT if not self._is_echo(event.uuid):
                self._with_domain(event.uuid, "count a reset", self._boots.count_reset)
                self._tell(MachineEvent(MachineEventKind.RESET, machine_id, "the guest was reset"))
            case libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON:
                self._tell(MachineEvent(MachineEventKind.IO_ERROR, machine_id, str(event.detail)))
            case libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE:
                self._on_lifecycle(event, machine_id)

    def _on_agent(self, uuid: str) -> None:
        """The guest's agent came: it can say which boot it is in."""
        if uuid in self._uncompared:
            self._compare(uuid)
        else:
            self._with_domain(uuid, "learn its boot", self._boots.learn_kernel)

    def _is_echo(self, uuid: str) -> bool:
        """Whether this is the second event of one reset: QEMU sends two, some 60 ms apart."""
        now, last = time.monotonic(), self._last_reset.get(uuid, -_ECHO_S)
        self._last_reset[uuid] = now
        return now - last < _ECHO_S

    def _on_lifecycle(self, event: DomainEvent, machine_id: MachineId) -> None:
        kind = _LIFECYCLE.get(event.event)
        if kind is None:
            return
        detail = ""
        if kind is MachineEventKind.STOPPED:
            detail = _STOP_REASONS.get(int(event.detail), "")
            if event.detail in _BAD_STOPS:
                kind = MachineEventKind.CRASHED
        self._tell(MachineEvent(kind, machine_id, detail))

    def _machine_of(self, uuid: str) -> MachineId | None:
        if uuid not in self._known:
            machine_id = self._with_domain(uuid, "find the machine of an event", self._identify)
            if machine_id is not None:
                self._known[uuid] = machine_id
        return self._known.get(uuid)

    def _compare_all(self) -> None:
        """Ask all guests which boot they are in; tell of those that were reset unnoticed."""

        def ours(connection: Any) -> list[str]:
            active = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            found = {str(domain.UUIDString()): self._identify(domain) for domain in active}
            self._known |= {uuid: machine_id for uuid, machine_id in found.items() if machine_id is not None}
            return [uuid for uuid, machine_id in found.items() if machine_id is not None]

        assert self._connection is not None
        try:
            uuids = self._connection.call(
                ours, subject="libvirt", action="list machines", timeout_s=_TIMEOUT_S
            )
        except OperationalError as error:
            _log.info("libvirt.boots-not-compared", error=str(error))
            return
        self._uncompared = set(uuids)
        for uuid in uuids:
            self._compare(uuid)

    def _compare(self, uuid: str) -> None:
        """Ask the guest which boot it is in; one that is booting just now is asked again when its agent comes."""
        was_reset = self._with_domain(uuid, "compare boots", self._boots.compare_kernel)
        if was_reset is None:
            return
        self._uncompared.discard(uuid)
        if was_reset:
            detail = "it was reset while nobody watched"
            self._tell(MachineEvent(MachineEventKind.RESET, self._known[uuid], detail))

    def _with_domain(self, uuid: str, action: str, function: Callable[[Any], Any]) -> Any:
        """`function(domain)`, or None if the domain is gone or cannot answer: events are hints, looking decides."""
        assert self._connection is not None
        try:
            return self._connection.call(
                lambda connection: function(connection.lookupByUUIDString(uuid)),
                subject=f"domain {uuid}",
                action=action,
                timeout_s=_TIMEOUT_S,
            )
        except OperationalError as error:
            if error.kind is not Kind.NOT_FOUND:
                _log.debug("libvirt.event-unanswered", error=str(error))
            return None

    def _tell(self, event: MachineEvent) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(event)
