"""The store on SQLite: SQLAlchemy Core, synchronous, WAL, every commit on disk before a call returns.

Writers are serialised by a lock, as SQLite would have them sleep and ask again, and by `BEGIN IMMEDIATE`; readers
never wait. The schema is brought up to date on opening.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.engine import Connection

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import DrawId, InstallationId, MachineId, OperationId, RehearsalId, SnapshotId, SystemId
from forkbed.core.operations.records import (
    Event,
    JournalEntry,
    Operation,
    OperationStatus,
    StepStatus,
)
from forkbed.core.operations.rules import Refuse
from forkbed.core.rehearsals.records import Rehearsal
from forkbed.core.snapshots.records import Snapshot
from forkbed.ports.store import NOTHING, Additions, Admission, ReadyMark, RevisionRecord, SystemRecord
from forkbed.store import rows, schema

_ACTIVE = [OperationStatus.QUEUED, OperationStatus.RUNNING, OperationStatus.CANCELLING]


class Database:
    """The store in the file `path`, or in memory for `None` (simulation and tests)."""

    def __init__(self, path: Path | None, draw_id: DrawId, *, durable: bool = True) -> None:
        """Open or create the database. FAULT if the file is not one or cannot be written.

        Without `durable` nothing waits for the disk: for simulated hosts, which a power failure ends anyway.
        """
        url = f"sqlite:///{path}" if path else "sqlite:///file:forkbed?mode=memory&uri=true"
        pool = {} if path else {"poolclass": sa.StaticPool}
        self._engine = sa.create_engine(url, connect_args={"check_same_thread": False}, **pool)
        sa.event.listen(self._engine, "connect", partial(_prepare_connection, durable=durable))
        sa.event.listen(self._engine, "begin", _begin)
        self._path = path
        self._writing = threading.Lock()
        # in memory there is one connection, which threads must not share
        self._alone = threading.RLock() if path is None else nullcontext()
        with self._write() as connection:
            _migrate(connection)
            self._id = _installation_id(connection, draw_id)

    def close(self) -> None:
        """Give the file back; the store cannot be used afterwards."""
        self._engine.dispose()

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        writing = self._engine.execution_options(forkbed_begin="IMMEDIATE")
        with self._translated("written"), self._writing, self._alone, writing.begin() as connection:
            yield connection

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._translated("read"), self._alone, self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _translated(self, verb: str) -> Iterator[None]:
        try:
            yield
        except sa.exc.IntegrityError:
            raise  # a bug of ours
        except sa.exc.DatabaseError as error:
            raise OperationalError(
                Kind.FAULT,
                f"database {self._path or 'in memory'}",
                f"cannot be {verb}: {error.orig}",
                "check the disk's free space and the file's owner; `forkbed doctor` does both",
            ) from error

    def installation_id(self) -> InstallationId:
        """See `ports.store.Store`, as for every method below."""
        return self._id

    # systems

    def systems(self) -> Sequence[SystemRecord]:
        """All systems by name."""
        with self._read() as connection:
            found = connection.execute(sa.select(schema.systems).order_by(schema.systems.c.name))
            return [rows.system_record(row) for row in found]

    def system(self, name: str) -> SystemRecord | None:
        """The system of that name."""
        with self._read() as connection:
            row = connection.execute(sa.select(schema.systems).where(schema.systems.c.name == name)).first()
        return rows.system_record(row) if row else None

    def system_by_id(self, system_id: SystemId) -> SystemRecord | None:
        """The system of that id."""
        with self._read() as connection:
            row = connection.execute(
                sa.select(schema.systems).where(schema.systems.c.id == system_id)
            ).first()
        return rows.system_record(row) if row else None

    def save_system(self, system: SystemRecord) -> None:
        """Store the system as it is now."""
        with self._write() as connection:
            rows.save_system(connection, system)

    def replace_systems(self, systems: Sequence[SystemRecord], revision: RevisionRecord) -> None:
        """Store the systems with the revision that made them so."""
        with self._write() as connection:
            for system in systems:
                rows.save_system(connection, system)
            rows.insert_revision(connection, revision)

    def delete_system(self, system_id: SystemId) -> None:
        """Forget a system; its operations and events stay."""
        with self._write() as connection:
            row = connection.execute(
                sa.select(schema.systems).where(schema.systems.c.id == system_id)
            ).first()
            if row is None:
                return
            machines = [machine.id for machine in rows.system_record(row).resolved.machines]
            marks = schema.ready_marks
            connection.execute(sa.delete(marks).where(marks.c.machine_id.in_(machines)))
            connection.execute(sa.delete(schema.systems).where(schema.systems.c.id == system_id))

    def revisions(self, system_id: SystemId) -> Sequence[RevisionRecord]:
        """The system's revisions, oldest first."""
        table = schema.revisions
        query = sa.select(table.c.document).where(table.c.system_id == system_id).order_by(table.c.number)
        with self._read() as connection:
            return [rows.REVISION.validate_json(row.document) for row in connection.execute(query)]

    # operations

    def submit(
        self,
        operation: Operation,
        admission: Admission,
        additions: Additions = NOTHING,
    ) -> Operation | Refuse:
        """Add the operation and what it is about, or answer why not."""
        table = schema.operations
        with self._write() as connection:
            if operation.idempotency_key is not None:
                earlier = rows.of_request(connection, operation.requester.uid, operation.idempotency_key)
                if earlier is not None:
                    return earlier
            if operation.systems:
                active = map(
                    rows.operation_record,
                    connection.execute(sa.select(table).where(table.c.status.in_(_ACTIVE))),
                )
                answer = admission([other for other in active if other.systems & operation.systems])
                if isinstance(answer, Refuse):
                    return answer
                connection.execute(
                    sa.update(table)
                    .where(table.c.id.in_(answer.cancel))
                    .values(status=OperationStatus.CANCELLING)
                )
            for system in additions.systems:
                rows.refuse_taken_system(connection, system)
                rows.save_system(connection, system)
            for revision in additions.revisions:
                rows.insert_revision(connection, revision)
            if additions.snapshot is not None:
                rows.refuse_taken_snapshot(connection, additions.snapshot)
                rows.save_snapshot(connection, additions.snapshot)
            if additions.rehearsal is not None:
                rows.save_rehearsal(connection, additions.rehearsal)
            connection.execute(sa.insert(table).values(**rows.operation_values(operation)))
        return operation

    def operation(self, operation_id: OperationId) -> Operation | None:
        """The operation of that id."""
        table = schema.operations
        with self._read() as connection:
            row = connection.execute(sa.select(table).where(table.c.id == operation_id)).first()
        return rows.operation_record(row) if row else None

    def operation_of_request(self, uid: int, idempotency_key: str) -> Operation | None:
        """The operation of the request with that key."""
        with self._read() as connection:
            return rows.of_request(connection, uid, idempotency_key)

    def operations(
        self, *, system_id: SystemId | None = None, active_only: bool = False, limit: int = 100
    ) -> Sequence[Operation]:
        """Operations, newest first, without their results."""
        table = schema.operations
        columns = (sa.null().label("result") if c is table.c.result else c for c in table.columns)
        query = sa.select(*columns).order_by(table.c.created_at.desc(), table.c.id).limit(limit)
        if system_id is not None:
            named = table.c.other_systems.contains(f'"{system_id}"', autoescape=True)
            query = query.where(sa.or_(table.c.system_id == system_id, named))
        if active_only:
            query = query.where(table.c.status.in_(_ACTIVE))
        with self._read() as connection:
            return [rows.operation_record(row) for row in connection.execute(query)]

    def set_status(
        self,
        operation_id: OperationId,
        status: OperationStatus,
        at: float,
        *,
        error: dict[str, object] | None = None,
        result: dict[str, object] | None = None,
    ) -> Operation:
        """Record a status unless the operation has ended; answers what is stored."""
        table = schema.operations
        with self._write() as connection:
            row = connection.execute(sa.select(table).where(table.c.id == operation_id)).one()
            before = rows.operation_record(row)
            cancelling = before.status is OperationStatus.CANCELLING
            if before.status.ended or (cancelling and not status.ended):
                return before
            after = replace(before, status=status, error=error, result=result)
            if status is OperationStatus.RUNNING and before.started_at is None:
                after = replace(after, started_at=at)
            if status.ended:
                after = replace(after, ended_at=at)
            connection.execute(
                sa.update(table).where(table.c.id == operation_id).values(**rows.operation_values(after))
            )
        return after

    # journal

    def begin_step(self, entry: JournalEntry) -> JournalEntry:
        """Add a journal entry under the next sequence of its operation."""
        table = schema.journal
        with self._write() as connection:
            last = connection.execute(
                sa.select(sa.func.max(table.c.sequence)).where(table.c.operation_id == entry.operation_id)
            ).scalar()
            entry = replace(entry, sequence=(last or 0) + 1)
            connection.execute(
                sa.insert(table).values(
                    operation_id=entry.operation_id,
                    sequence=entry.sequence,
                    key=entry.key,
                    verb=entry.verb,
                    subject=entry.subject,
                    host=entry.host,
                    status=entry.status,
                    started_at=entry.started_at,
                    message=entry.message,
                )
            )
        return entry

    def end_step(
        self,
        operation_id: OperationId,
        sequence: int,
        status: StepStatus,
        at: float,
        message: str,
        event: Event | None = None,
    ) -> None:
        """Close a journal entry, and add the event that tells it."""
        table = schema.journal
        with self._write() as connection:
            connection.execute(
                sa.update(table)
                .where(table.c.operation_id == operation_id, table.c.sequence == sequence)
                .values(status=status, ended_at=at, message=message)
            )
            if event is not None:
                rows.insert_event(connection, event)

    def interrupt_steps(self, operation_id: OperationId, at: float) -> None:
        """Close the entries that are still open."""
        table = schema.journal
        with self._write() as connection:
            connection.execute(
                sa.update(table)
                .where(table.c.operation_id == operation_id, table.c.status == StepStatus.STARTED)
                .values(status=StepStatus.INTERRUPTED, ended_at=at)
            )

    def journal(self, operation_id: OperationId) -> Sequence[JournalEntry]:
        """The operation's entries in their order."""
        table = schema.journal
        query = sa.select(table).where(table.c.operation_id == operation_id).order_by(table.c.sequence)
        with self._read() as connection:
            return [rows.journal_entry(row) for row in connection.execute(query)]

    # snapshots

    def snapshots(self, system_id: SystemId | None = None) -> Sequence[Snapshot]:
        """Snapshots, oldest first."""
        table = schema.snapshots
        query = sa.select(table.c.document).order_by(table.c.created_at, table.c.id)
        if system_id is not None:
            query = query.where(table.c.system_id == system_id)
        with self._read() as connection:
            return [rows.SNAPSHOT.validate_json(row.document) for row in connection.execute(query)]

    def snapshot(self, snapshot_id: SnapshotId) -> Snapshot | None:
        """The snapshot of that id."""
        table = schema.snapshots
        query = sa.select(table.c.document).where(table.c.id == snapshot_id)
        with self._read() as connection:
            document = connection.execute(query).scalar()
        return rows.SNAPSHOT.validate_json(document) if document is not None else None

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Store the snapshot as it is now."""
        with self._write() as connection:
            rows.save_snapshot(connection, snapshot)

    def delete_snapshot(self, snapshot_id: SnapshotId) -> None:
        """Forget the snapshot."""
        with self._write() as connection:
            connection.execute(sa.delete(schema.snapshots).where(schema.snapshots.c.id == snapshot_id))

    # rehearsals

    def rehearsals(self, system_id: SystemId | None = None) -> Sequence[Rehearsal]:
        """Rehearsals, oldest first."""
        table = schema.rehearsals
        query = sa.select(table.c.document).order_by(table.c.created_at, table.c.id)
        if system_id is not None:
            query = query.where(table.c.system_id == system_id)
        with self._read() as connection:
            return [rows.REHEARSAL.validate_json(row.document) for row in connection.execute(query)]

    def rehearsal(self, rehearsal_id: RehearsalId) -> Rehearsal | None:
        """The rehearsal of that id."""
        table = schema.rehearsals
        query = sa.select(table.c.document).where(table.c.id == rehearsal_id)
        with self._read() as connection:
            document = connection.execute(query).scalar()
        return rows.REHEARSAL.validate_json(document) if document is not None else None

    def save_rehearsal(self, rehearsal: Rehearsal) -> None:
        """Store the rehearsal as it is now."""
        with self._write() as connection:
            rows.save_rehearsal(connection, rehearsal)

    # events and ready marks

    def add_event(self, event: Event) -> Event:
        """Add an event under the next sequence."""
        with self._write() as connection:
            return replace(event, sequence=rows.insert_event(connection, event))

    def events(self, *, after: int = 0, system: str = "", limit: int = 1000) -> Sequence[Event]:
        """Events after a sequence, oldest first."""
        table = schema.events
        query = sa.select(table).where(table.c.sequence > after).order_by(table.c.sequence).limit(limit)
        if system:
            query = query.where(table.c.system == system)
        with self._read() as connection:
            return [rows.event_record(row) for row in connection.execute(query)]

    def last_event(self) -> int:
        """The greatest sequence given so far."""
        with self._read() as connection:
            return connection.execute(sa.select(sa.func.max(schema.events.c.sequence))).scalar() or 0

    def mark_ready(self, machine_id: MachineId, mark: ReadyMark) -> None:
        """Remember that a boot passed."""
        values = {"boot_id": mark.boot_id, "digest": mark.digest}
        with self._write() as connection:
            connection.execute(
                upsert(schema.ready_marks)
                .values(machine_id=machine_id, **values)
                .on_conflict_do_update(index_elements=["machine_id"], set_=values)
            )

    def ready_marks(self) -> Mapping[MachineId, ReadyMark]:
        """The last boot of each machine that passed."""
        with self._read() as connection:
            found = connection.execute(sa.select(schema.ready_marks))
            return {MachineId(row.machine_id): ReadyMark(row.boot_id, row.digest) for row in found}


def _prepare_connection(raw: object, _record: object, *, durable: bool) -> None:
    # the driver must not begin transactions by itself: `_begin` decides which kind
    raw.isolation_level = None  # type: ignore[attr-defined]
    cursor = raw.cursor()  # type: ignore[attr-defined]
    synchronous = f"synchronous={'FULL' if durable else 'OFF'}"
    for pragma in ("journal_mode=WAL", synchronous, "foreign_keys=ON", "busy_timeout=20000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    kind = connection.get_execution_options().get("forkbed_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {kind}")


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(files("forkbed.store") / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _installation_id(connection: Connection, draw_id: DrawId) -> InstallationId:
    stored = connection.execute(sa.select(schema.installation.c.id)).scalar()
    if stored is None:
        stored = draw_id(4)
        connection.execute(sa.insert(schema.installation).values(id=stored))
    return InstallationId(stored)
