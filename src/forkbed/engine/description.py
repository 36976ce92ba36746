"""Answer "where is it, why is it there, what happened to it": views of systems made of facts and records."""

from __future__ import annotations

from collections.abc import Sequence

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.units import format_duration
from forkbed.core.operations.records import Operation, OperationStatus, StepStatus
from forkbed.core.systems.goal import Wanted
from forkbed.core.systems.names import domain_of
from forkbed.core.systems.spec import ResolvedMachine, ResolvedNetwork, UplinkKind
from forkbed.core.systems.status import is_ready, restart_pending, system_status
from forkbed.core.systems.view import SystemView
from forkbed.engine.host import Host
from forkbed.engine.requests import (
    MachineDetail,
    NetworkDetail,
    ReasonLine,
    RevisionSummary,
    SystemDetail,
    SystemSummary,
)
from forkbed.ports.store import RevisionRecord, Store, SystemRecord

_TRAIL_OPERATIONS = 5


class Description:
    """Describes systems of one host."""

    def __init__(self, host: Host, store: Store) -> None:
        self._host = host
        self._store = store

    def summary(self, record: SystemRecord, view: SystemView) -> SystemSummary:
        """One line's worth of a system."""
        last = self._newest(record, 1)
        status = system_status(record.resolved, record.wanted, record.up, view, last[0] if last else None)
        active = last[0] if last and not last[0].status.ended else None
        origin = record.resolved.origin
        return SystemSummary(
            name=record.name,
            id=record.id,
            revision=record.revision,
            state=status.state,
            machines_running=status.running,
            machines_ready=status.ready,
            machines_total=len(record.resolved.machines),
            created_at=record.created_at,
            changed_at=record.changed_at,
            operation_id=active.id if active else "",
            expires_at=record.expires_at,
            labels=dict(record.resolved.labels),
            fork_of=origin.system if origin else "",
            cut_at=origin.cut_at if origin else None,
            snapshot=origin.snapshot if origin else "",
        )

    def detail(self, record: SystemRecord, view: SystemView, revision: int | None) -> SystemDetail:
        """Everything about a system; with `revision` the machines and manifest as declared then."""
        source = self.revision(record, revision if revision is not None else record.revision)
        described = source.resolved
        return SystemDetail(
            summary=self.summary(record, view),
            manifest=source.text,
            machines=tuple(self._machine(record, machine, view) for machine in described.machines),
            networks=tuple(self._network(network, view) for network in described.networks),
            trail=self._trail(record),
        )

    def revision(self, record: SystemRecord, number: int) -> RevisionRecord:
        """One accepted manifest. NOT_FOUND if there is none of that number."""
        for revision in self._store.revisions(record.id):
            if revision.number == number:
                return revision
        raise OperationalError(
            Kind.NOT_FOUND,
            f"system {record.name}",
            f"has no revision {number}",
            f"`forkbed history {record.name}` shows its revisions",
        )

    def history(self, record: SystemRecord) -> Sequence[RevisionSummary]:
        """All revisions, oldest first."""
        return [
            RevisionSummary(
                revision.number, revision.accepted_at, revision.requester, revision.digest, revision.changes
            )
            for revision in self._store.revisions(record.id)
        ]

    def _newest(self, record: SystemRecord, count: int) -> Sequence[Operation]:
        return self._store.operations(system_id=record.id, limit=count)

    def _machine(self, record: SystemRecord, machine: ResolvedMachine, view: SystemView) -> MachineDetail:
        names = {network.id: network.spec.name for network in record.resolved.networks}
        current = any(machine == other for other in record.resolved.machines)
        return MachineDetail(
            name=machine.name,
            id=machine.id,
            host=self._host.name,
            power=view.machine(machine.id).power,
            ready=is_ready(machine, view),
            wanted=record.wanted.get(machine.name, Wanted.STOPPED),
            image=machine.spec.image,
            image_id=machine.image_id,
            cpus=machine.spec.cpus,
            memory_bytes=machine.spec.memory_bytes,
            addresses=tuple(
                (names.get(nic.network_id, nic.network_id), str(nic.address), nic.mac) for nic in machine.nics
            ),
            published=tuple(
                f"{p.host_address}:{p.host_port} -> {p.machine_port}/{p.protocol}"
                for p in machine.spec.publish
            ),
            volumes=tuple((volume.name, volume.size_bytes) for volume in machine.volumes),
            restart_pending=current and restart_pending(record.resolved, machine, view),
            domain=domain_of(self._store.installation_id(), record.name, machine),
        )

    def _network(self, network: ResolvedNetwork, view: SystemView) -> NetworkDetail:
        spec = network.spec
        seen = view.networks.get(network.id)
        bridged = spec.uplink is UplinkKind.BRIDGE
        return NetworkDetail(
            name=spec.name,
            id=network.id,
            subnet=str(spec.subnet),
            uplink=f"bridge:{spec.bridge}" if bridged else str(spec.uplink),
            ipv6=str(spec.ipv6),
            gateway=str(network.gateway),
            bridge=self._host.networks.bridge_name(network),
            namespace=self._host.networks.namespace(network),
            healthy=seen is not None and seen.healthy,
        )

    def _trail(self, record: SystemRecord) -> tuple[ReasonLine, ...]:
        """From who asked for what, over the steps on the host, to what came of it; oldest first."""
        lines: list[ReasonLine] = []
        for operation in reversed(self._newest(record, _TRAIL_OPERATIONS)):
            who = operation.requester
            asked = f"{who.account} (uid {who.uid}): {who.command}"
            lines.append(ReasonLine(operation.created_at, asked, operation.id))
            lines += self._step_lines(operation)
            if operation.status.ended:
                ended = operation.ended_at or operation.created_at
                lines.append(ReasonLine(ended, _outcome(operation), operation.id))
        return tuple(lines)

    def _step_lines(self, operation: Operation) -> list[ReasonLine]:
        lines = []
        for entry in self._store.journal(operation.id):
            if entry.status is StepStatus.ALREADY:
                continue
            took = f" ({format_duration(entry.ended_at - entry.started_at)})" if entry.ended_at else ""
            message = f": {entry.message}" if entry.message else ""
            text = f"{entry.key} on {entry.host}: {entry.status}{took}{message}"
            lines.append(ReasonLine(entry.started_at, text, operation.id))
        return lines


def _outcome(operation: Operation) -> str:
    if operation.status is OperationStatus.FAILED and operation.error is not None:
        return f"{operation.kind} failed: {OperationalError.from_dict(operation.error)}"
    return f"{operation.kind} {operation.status}"
