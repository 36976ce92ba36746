"""`ports.cuts` with libvirt and QEMU: all machines of a system frozen at one instant, and memories brought back.

The order of things, and why it is safe to be killed anywhere in it: a note says which machines are concerned; a
guard process lives that reads it; then everything is prepared while the machines run; only then are they frozen.
See `pauses`, `releasing` and `guard`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
import structlog

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId, SnapshotId
from forkbed.core.systems.goal import MemoryRef
from forkbed.core.systems.steps import Effect
from forkbed.drivers.libvirt import layers
from forkbed.drivers.libvirt.connection import close_quietly, open_beside
from forkbed.drivers.libvirt.failures import translate
from forkbed.drivers.libvirt.feeding import Pipes
from forkbed.drivers.libvirt.freezing import MachineFreeze, stream_limit_bytes
from forkbed.drivers.libvirt.groupcut import GroupCut, purpose_of
from forkbed.drivers.libvirt.guard import ensure_guard
from forkbed.drivers.libvirt.hypervisor import LibvirtHypervisor
from forkbed.drivers.libvirt.large_memory import Gathering
from forkbed.drivers.libvirt.logs import emulator_words
from forkbed.drivers.libvirt.memories import Memories
from forkbed.drivers.libvirt.monitor import Monitor
from forkbed.drivers.libvirt.pauses import Pause, Pauses, Phase
from forkbed.drivers.libvirt.power import is_active
from forkbed.drivers.libvirt.refusals import refusal
from forkbed.drivers.libvirt.releasing import Release
from forkbed.drivers.libvirt.saveimage import disk_files, disk_serial, restored_domain
from forkbed.ports.cuts import Cut, CutOrder, MemoryView
from forkbed.ports.hypervisor import MachineDefinition
from forkbed.ports.progress import Progress

_log = structlog.get_logger(__name__)


class LibvirtCuts:
    """Cuts of the machines of one hypervisor. Thread-safe; one process at a time makes cuts in a state directory."""

    def __init__(self, hypervisor: LibvirtHypervisor, state_dir: Path) -> None:
        self._hypervisor = hypervisor
        self._memories = Memories(state_dir / "memory")
        self._gathering = Gathering()
        self._pipes = Pipes(state_dir / "pipes")
        self._pauses_dir = state_dir / "pauses"
        self._pauses = Pauses(self._pauses_dir)

    def refusal(self, machine_id: MachineId) -> str:
        """Why the memory of this running machine cannot be cut, or ""."""

        def look(domain: Any) -> str:
            reason = refusal(ElementTree.fromstring(domain.XMLDesc(0)))
            if not reason and is_active(domain):
                reason = "; ".join(Monitor(domain, self._hypervisor.subject(machine_id)).blockers())
            return reason

        return self._hypervisor.on_domain(machine_id, "look whether it can be cut", look)

    def memory_file_bytes(self, machine_id: MachineId) -> int:
        """The space that the file of the machine's memory may need."""
        return self._hypervisor.on_domain(
            machine_id,
            "look at its memory",
            lambda domain: stream_limit_bytes(ElementTree.fromstring(domain.XMLDesc(0))),
        )

    def cut(
        self,
        snapshot_id: SnapshotId,
        orders: Sequence[CutOrder],
        *,
        hold: bool,
        quiesce: bool,
        hold_limit_s: float = 0.0,
        before_freeze: Callable[[], None] = lambda: None,
    ) -> Cut:
        """Cut the machines at one instant. See `ports.cuts`."""
        if not orders:
            raise ValueError("a cut of no machine")
        machines = [
            MachineFreeze(
                self._hypervisor.uri,
                self._hypervisor.on_domain(order.machine_id, "find it", lambda d: str(d.UUIDString())),
                self._hypervisor.subject(order.machine_id),
                order,
                self._gathering,
                hold=hold,
                quiesce=quiesce,
            )
            for order in orders
        ]
        made = GroupCut(
            snapshot_id,
            machines,
            self._memories,
            self._pauses,
            self._hypervisor.on_host,
            self._ensure_guard,
            hold=hold,
            quiesce=quiesce,
            hold_limit_s=hold_limit_s,
        )
        made.make(before_freeze)
        for outcome in made.outcomes:
            _log.info(
                "cut.made",
                snapshot=snapshot_id,
                machine=outcome.machine_id,
                method=str(outcome.method),
                frozen_s=round(outcome.resumed_at - outcome.frozen_at, 4) if outcome.resumed_at else None,
                note=outcome.note,
            )
        return made

    def was_given_up(self, snapshot_id: SnapshotId) -> bool:
        """Whether the machines that a cut for this snapshot held were given up."""
        return bool(self._given_up(snapshot_id))

    def forget_given_up(self, snapshot_id: SnapshotId) -> None:
        """Remove the note of that."""
        for pause in self._given_up(snapshot_id):
            pause.remove()

    def _given_up(self, snapshot_id: SnapshotId) -> list[Pause]:
        purpose = purpose_of(snapshot_id)
        return [p for p in self._pauses.all() if p.phase is Phase.GIVEN_UP and p.note.purpose == purpose]

    def restore(self, definition: MachineDefinition, memory: MemoryRef) -> Effect:
        """Bring the defined machine back from a memory. See `ports.cuts`."""
        machine_id = definition.machine.id
        subject = f"machine {definition.system_name}/{definition.machine.name}"

        def defined(domain: Any) -> tuple[str, str] | None:
            if is_active(domain):
                return None
            flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
            return str(domain.name()), str(domain.XMLDesc(flags))

        found = self._hypervisor.on_domain(machine_id, "look at its definition", defined)
        if found is None:
            return Effect.ALREADY
        name, persistent = found
        with self._memories.opened(memory.snapshot_id, memory.machine_id, subject) as opened:
            domain = restored_domain(opened.domain, persistent, secrets.token_hex(8), subject)
            try:
                connection = open_beside(self._hypervisor.uri)
                try:
                    self._pipes.restore(connection, opened, domain)
                finally:
                    close_quietly(connection)
            except libvirt.libvirtError as error:
                words = emulator_words(self._hypervisor.emulator_log(name))
                raise translate(
                    error,
                    subject,
                    "let it go on from its memory",
                    details=tuple(f"qemu: {line}" for line in words),
                ) from error
        return Effect.CHANGED

    def make_lasting(self, snapshot_id: SnapshotId) -> bool:
        """Write memories that were not to last out to the disk. See `ports.cuts`."""
        return self._memories.make_lasting(snapshot_id)

    def memories(self) -> Sequence[MemoryView]:
        """The memories on this host."""
        return self._memories.views()

    def remove_memory(self, snapshot_id: SnapshotId) -> Effect:
        """Remove the memories of a snapshot; one that is being written is waited for."""
        return Effect.CHANGED if self._memories.remove(snapshot_id) else Effect.ALREADY

    def recover(self) -> None:
        """What the guard does, and sweeping; at the controller's start. See `ports.cuts`."""
        self._pauses.sweep()
        self._pipes.sweep()
        self._memories.sweep()
        pauses = [pause for pause in self._pauses.all() if pause.phase is not Phase.GIVEN_UP]
        for pause in pauses:
            if pause.phase is Phase.FROZEN:
                pause.move(Phase.RELEASE)
            try:
                Release(pause, self._hypervisor.on_host).attempt()
            except OperationalError as error:
                _log.warning("cut.recovery-waits", purpose=pause.note.purpose, error=str(error))
        if pauses:  # streams take their time, and libvirtd may be away: the guard sees it to its end
            try:
                self._ensure_guard()
            except OperationalError as error:
                _log.error("cut.no-guard", error=str(error), details=error.details)

    def disks_in_use(self, machine_id: MachineId) -> Mapping[str, tuple[str, ...]]:
        """The files of each disk of a running or paused machine. See `ports.cuts`."""

        def look(domain: Any) -> dict[str, tuple[str, ...]]:
            if not is_active(domain):
                return {}
            live = ElementTree.fromstring(domain.XMLDesc(0))
            return {disk_serial(disk): disk_files(disk) for disk in live.iterfind("devices/disk")}

        try:
            return self._hypervisor.on_domain(machine_id, "look at its disks", look)
        except OperationalError as error:
            if error.kind is Kind.NOT_FOUND:  # what is not even defined does not run
                return {}
            raise

    def commit_layer(
        self, machine_id: MachineId, serial: str, top: str, into: str, progress: Progress
    ) -> Effect:
        """Write a layer down into the one below. See `ports.cuts`."""
        subject = self._hypervisor.subject(machine_id)
        return layers.commit(self._caller(machine_id), subject, serial, top, into, progress)

    def pull_layers(self, machine_id: MachineId, serial: str, keep: str, progress: Progress) -> Effect:
        """Copy layers up into the active one. See `ports.cuts`."""
        return layers.pull(
            self._caller(machine_id), self._hypervisor.subject(machine_id), serial, keep, progress
        )

    def flush(self, machine_id: MachineId, serial: str) -> None:
        """Have on disk what QEMU holds back of the disk. See `ports.cuts`."""
        layers.flush(self._caller(machine_id), self._hypervisor.subject(machine_id), serial)

    def _caller(self, machine_id: MachineId) -> layers.OnDomain:
        def call(action: str, function: Callable[[Any], Any]) -> Any:
            return self._hypervisor.on_domain(machine_id, action, function)

        return call

    def _ensure_guard(self) -> None:
        ensure_guard(self._pauses_dir, self._hypervisor.uri)
