"""What is in the rows of the tables: records to rows and back, within a transaction of the caller."""

from __future__ import annotations

import json
from functools import lru_cache

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.engine import Connection, Row

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import OperationId, SystemId
from forkbed.core.operations.records import (
    Event,
    JournalEntry,
    Operation,
    OperationKind,
    OperationStatus,
    Requester,
    StepStatus,
)
from forkbed.core.rehearsals.records import Rehearsal
from forkbed.core.snapshots.records import Snapshot
from forkbed.core.systems.goal import Wanted
from forkbed.core.systems.spec import ResolvedSystem
from forkbed.ports.store import RevisionRecord, SystemRecord
from forkbed.store import schema

_RESOLVED = TypeAdapter(ResolvedSystem)
_WANTED = TypeAdapter(dict[str, Wanted])
REVISION = TypeAdapter(RevisionRecord)
SNAPSHOT = TypeAdapter(Snapshot)
REHEARSAL = TypeAdapter(Rehearsal)


def save_system(connection: Connection, system: SystemRecord) -> None:
    """Store the system as it is now."""
    values = {
        "name": system.name,
        "resolved": _RESOLVED.dump_json(system.resolved).decode(),
        "wanted": _WANTED.dump_json(dict(system.wanted)).decode(),
        "up": system.up,
        "created_at": system.created_at,
        "changed_at": system.changed_at,
        "message": system.message,
        "expires_at": system.expires_at,
        "generation": system.generation,
        "maintenance": system.maintenance,
        "kept_of": system.kept_of,
        "kept_at": system.kept_at,
    }
    connection.execute(
        upsert(schema.systems)
        .values(id=system.id, **values)
        .on_conflict_do_update(index_elements=["id"], set_=values)
    )


def insert_revision(connection: Connection, revision: RevisionRecord) -> None:
    """Add a revision."""
    connection.execute(
        sa.insert(schema.revisions).values(
            system_id=revision.system_id,
            number=revision.number,
            document=REVISION.dump_json(revision).decode(),
        )
    )


def insert_event(connection: Connection, event: Event) -> int:
    """Add an event; returns its sequence."""
    result = connection.execute(
        sa.insert(schema.events).values(
            at=event.at,
            kind=event.kind,
            system=event.system,
            machine=event.machine,
            operation_id=event.operation_id,
            attributes=json.dumps(event.attributes or {}),
        )
    )
    sequence = result.inserted_primary_key
    assert sequence is not None
    return int(sequence[0])


def save_snapshot(connection: Connection, snapshot: Snapshot) -> None:
    """Store the snapshot as it is now."""
    values = {
        "system_id": snapshot.system_id,
        "name": snapshot.name,
        "created_at": snapshot.created_at,
        "document": SNAPSHOT.dump_json(snapshot).decode(),
    }
    connection.execute(
        upsert(schema.snapshots)
        .values(id=snapshot.id, **values)
        .on_conflict_do_update(index_elements=["id"], set_=values)
    )


def save_rehearsal(connection: Connection, rehearsal: Rehearsal) -> None:
    """Store the rehearsal as it is now."""
    values = {
        "system_id": rehearsal.system_id,
        "created_at": rehearsal.created_at,
        "document": REHEARSAL.dump_json(rehearsal).decode(),
    }
    connection.execute(
        upsert(schema.rehearsals)
        .values(id=rehearsal.id, **values)
        .on_conflict_do_update(index_elements=["id"], set_=values)
    )


def refuse_taken_system(connection: Connection, system: SystemRecord) -> None:
    """CONFLICT if another system has the name."""
    table = schema.systems
    query = sa.select(table.c.id).where(table.c.name == system.name, table.c.id != system.id)
    if connection.execute(query).first() is not None:
        raise OperationalError(
            Kind.CONFLICT, f"system {system.name}", "exists already", "choose another name"
        )


def refuse_taken_snapshot(connection: Connection, snapshot: Snapshot) -> None:
    """CONFLICT if another snapshot of the system has the name."""
    table = schema.snapshots
    query = sa.select(table.c.id).where(
        table.c.system_id == snapshot.system_id, table.c.name == snapshot.name, table.c.id != snapshot.id
    )
    if connection.execute(query).first() is not None:
        raise OperationalError(
            Kind.CONFLICT,
            f"snapshot {snapshot.resolved.name}@{snapshot.name}",
            "exists already",
            "choose another name, or delete that one first",
        )


@lru_cache(maxsize=512)
def _resolved(text: str) -> ResolvedSystem:
    """What the text says, which nothing can change; every look at a host reads those of all its systems."""
    return _RESOLVED.validate_json(text)


def system_record(row: Row[tuple[object, ...]]) -> SystemRecord:
    """The system in a row."""
    return SystemRecord(
        id=SystemId(row.id),
        name=row.name,
        resolved=_resolved(row.resolved),
        wanted=_WANTED.validate_json(row.wanted),
        up=row.up,
        created_at=row.created_at,
        changed_at=row.changed_at,
        message=row.message,
        expires_at=row.expires_at,
        generation=row.generation,
        maintenance=row.maintenance,
        kept_of=SystemId(row.kept_of) if row.kept_of is not None else None,
        kept_at=row.kept_at,
    )


def of_request(connection: Connection, uid: int, idempotency_key: str) -> Operation | None:
    """The operation that answered the request with that key."""
    table = schema.operations
    row = connection.execute(
        sa.select(table).where(table.c.uid == uid, table.c.idempotency_key == idempotency_key)
    ).first()
    return operation_record(row) if row else None


def operation_values(operation: Operation) -> dict[str, object]:
    """The columns of an operation."""
    return {
        "id": operation.id,
        "kind": operation.kind,
        "system_id": operation.system_id,
        "subject": operation.subject,
        "goal": json.dumps(operation.goal),
        "uid": operation.requester.uid,
        "account": operation.requester.account,
        "command": operation.requester.command,
        "status": operation.status,
        "created_at": operation.created_at,
        "started_at": operation.started_at,
        "ended_at": operation.ended_at,
        "error": json.dumps(operation.error) if operation.error is not None else None,
        "result": json.dumps(operation.result) if operation.result is not None else None,
        "idempotency_key": operation.idempotency_key,
        "other_systems": json.dumps(operation.other_systems),
    }


def operation_record(row: Row[tuple[object, ...]]) -> Operation:
    """The operation in a row."""
    return Operation(
        id=OperationId(row.id),
        kind=OperationKind(row.kind),
        system_id=SystemId(row.system_id) if row.system_id is not None else None,
        subject=row.subject,
        goal=json.loads(row.goal),
        requester=Requester(row.uid, row.account, row.command),
        status=OperationStatus(row.status),
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        error=json.loads(row.error) if row.error is not None else None,
        result=json.loads(row.result) if row.result is not None else None,
        idempotency_key=row.idempotency_key,
        other_systems=tuple(json.loads(row.other_systems)),
    )


def journal_entry(row: Row[tuple[object, ...]]) -> JournalEntry:
    """The journal entry in a row."""
    return JournalEntry(
        sequence=row.sequence,
        operation_id=OperationId(row.operation_id),
        key=row.key,
        verb=row.verb,
        subject=row.subject,
        host=row.host,
        status=StepStatus(row.status),
        started_at=row.started_at,
        ended_at=row.ended_at,
        message=row.message,
    )


def event_record(row: Row[tuple[object, ...]]) -> Event:
    """The event in a row."""
    return Event(
        sequence=row.sequence,
        at=row.at,
        kind=row.kind,
        system=row.system,
        machine=row.machine,
        operation_id=row.operation_id,
        attributes=json.loads(row.attributes),
    )
