"""How a request becomes an operation: who it is about, whether it may be, and that it is worked off."""

from __future__ import annotations

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import OperationId, SystemId
from forkbed.core.operations.records import Event, Operation, OperationKind, OperationStatus
from forkbed.core.operations.rules import Refuse, admit
from forkbed.core.systems.spec import ResolvedMachine
from forkbed.engine.dispatcher import Dispatcher
from forkbed.engine.options import Options
from forkbed.engine.requests import Request
from forkbed.engine.surroundings import Surroundings
from forkbed.ports.store import NOTHING, Additions, SystemRecord


class Submission:
    """Takes requests in for one installation."""

    def __init__(self, around: Surroundings, options: Options, dispatcher: Dispatcher) -> None:
        self._around = around
        self._options = options
        self._dispatcher = dispatcher

    def draw_operation_id(self) -> OperationId:
        """A fresh id."""
        return OperationId(self._options.draw_id(10))

    def record(self, name: str) -> SystemRecord:
        """The system of that name, NOT_FOUND if there is none."""
        record = self._around.store.system(name)
        if record is None:
            raise OperationalError(
                Kind.NOT_FOUND, f"system {name}", "is not known", "`forkbed list` shows the systems"
            )
        return record

    def addressed(self, name: str, request: Request) -> SystemRecord:
        """The system that a change is asked of. NOT_FOUND, and CONFLICT if it was asked of another revision."""
        record = self.record(name)
        self.check_match(record, name, request)
        return record

    def machine(self, record: SystemRecord, name: str) -> ResolvedMachine:
        """The machine of that name, NOT_FOUND if the system declares none."""
        try:
            return record.resolved.machine(name)
        except KeyError:
            names = ", ".join(machine.name for machine in record.resolved.machines)
            raise OperationalError(
                Kind.NOT_FOUND, f"machine {record.name}/{name}", "is not declared", f"there are: {names}"
            ) from None

    def check_match(self, record: SystemRecord | None, name: str, request: Request) -> None:
        """CONFLICT if the request was made against another revision."""
        revision = record.revision if record else 0
        if request.if_match is not None and request.if_match != revision:
            raise OperationalError(
                Kind.CONFLICT,
                f"system {name}",
                f"is at revision {revision}, not {request.if_match}: somebody changed it meanwhile",
                f"look at it (`forkbed show {name}`) and ask again",
            )

    def same_request(self, request: Request) -> Operation | None:
        """The operation of an earlier request with the same key, found before anything is looked at."""
        if request.idempotency_key is None:
            return None
        return self._around.store.operation_of_request(request.requester.uid, request.idempotency_key)

    def submit(
        self,
        kind: OperationKind,
        system_id: SystemId | None,
        subject: str,
        goal: dict[str, object],
        request: Request,
        *,
        additions: Additions = NOTHING,
        other_systems: tuple[SystemId, ...] = (),
    ) -> Operation:
        """Store the operation with what it is about, and have it worked off. BUSY beside another one."""
        operation = Operation(
            id=self.draw_operation_id(),
            kind=kind,
            system_id=system_id,
            subject=subject,
            goal=goal,
            requester=request.requester,
            status=OperationStatus.QUEUED,
            created_at=self._around.host.clock.now(),
            idempotency_key=request.idempotency_key,
            other_systems=other_systems,
        )
        answer = self._around.store.submit(operation, lambda active: admit(operation, active), additions)
        if isinstance(answer, Refuse):
            other = answer.because
            # of what Forkbed does by itself, the kind alone says little
            why = "" if other.requester.is_person else f": {other.requester.command}"
            raise OperationalError(
                Kind.BUSY,
                f"system {other.subject}",
                f"is being changed: {other.kind} by {other.requester.account}{why} (operation {other.id})",
                f"wait for it (`forkbed operations show {other.id}`) or cancel it "
                f"(`forkbed operations cancel {other.id}`)",
            )
        self._around.hub.touch(answer.id)
        self._dispatcher.dispatch()
        return answer

    def tell(
        self,
        kind: str,
        subject: str,
        request: Request,
        *,
        operation_id: str = "",
        system: str = "",
        **more: object,
    ) -> None:
        """Keep as an event what a person did."""
        requester = request.requester
        attributes = {"subject": subject, "account": requester.account, "command": requester.command, **more}
        self._around.store.add_event(
            Event(
                sequence=0,
                at=self._around.host.clock.now(),
                kind=kind,
                system=system,
                operation_id=operation_id,
                attributes=attributes,
            )
        )
        self._around.hub.touch_events()
