"""The store: one transaction a call, durable, and fit for many threads."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId, OperationId, SystemId, draw_id
from forkbed.core.operations.records import (
    Event,
    JournalEntry,
    Operation,
    OperationKind,
    OperationStatus,
    Requester,
    StepStatus,
)
from forkbed.core.operations.rules import Admit, Refuse, admit
from forkbed.core.systems.goal import Wanted
from forkbed.ports.store import Additions, ReadyMark, SystemRecord
from forkbed.store.database import Database
from tests.unit.systems.worlds import machine, system

ADA = Requester(1000, "ada", "forkbed up")


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return Database(tmp_path / "forkbed.db" if request.param == "file" else None, draw_id)


def operation(number: int = 1, **changes: object) -> Operation:
    made = Operation(
        id=OperationId(f"o{number}"),
        kind=OperationKind.UP,
        system_id=SystemId("s1"),
        subject="demo",
        goal={"wanted": {"a": "running"}},
        requester=ADA,
        status=OperationStatus.QUEUED,
        created_at=float(number),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def record() -> SystemRecord:
    return SystemRecord(SystemId("s1"), "demo", system(machine("a")), {"a": Wanted.RUNNING}, True, 1.0, 2.0)


def anything(_active: object) -> Admit:
    return Admit()


def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    first = Database(tmp_path / "db", draw_id)
    first.submit(operation(), anything, Additions(systems=(record(),)))
    first.mark_ready(MachineId("m1"), ReadyMark("b1", "d1"))
    first.close()
    second = Database(tmp_path / "db", draw_id)
    assert second.installation_id() == first.installation_id()
    assert second.system("demo") == second.system_by_id(SystemId("s1")) == record()
    assert second.operation(OperationId("o1")) == operation()
    assert second.ready_marks() == {"m1": ReadyMark("b1", "d1")}


def test_a_submission_is_whole_or_not_at_all(store: Database) -> None:
    refused = store.submit(operation(), lambda _: Refuse(operation(9)), Additions(systems=(record(),)))
    assert refused == Refuse(operation(9))
    assert store.systems() == []
    assert store.operations() == []


def test_admission_is_asked_about_the_active_ones_of_the_same_system(store: Database) -> None:
    store.submit(operation(1), anything)
    store.submit(operation(2, system_id=SystemId("s2")), anything)
    wanted = operation(3)
    second = store.submit(wanted, lambda active: admit(wanted, active))
    assert isinstance(second, Refuse)
    assert second.because.id == "o1"
    third = operation(4, kind=OperationKind.DOWN)
    assert store.submit(third, lambda active: admit(third, active)) == third
    cancelled = store.operation(OperationId("o1"))
    assert cancelled is not None
    assert cancelled.status is OperationStatus.CANCELLING
    assert [o.id for o in store.operations(active_only=True, system_id=SystemId("s1"))] == ["o4", "o1"]


def test_one_key_one_operation(store: Database) -> None:
    first = operation(1, idempotency_key="k")
    store.submit(first, anything)
    assert store.submit(operation(2, idempotency_key="k"), anything) == first
    assert store.operation_of_request(1000, "k") == first
    assert store.operation_of_request(1001, "k") is None


def test_an_operation_that_ended_stays_as_it_is(store: Database) -> None:
    store.submit(operation(), anything)
    store.set_status(OperationId("o1"), OperationStatus.RUNNING, 5.0)
    error = OperationalError(Kind.FAULT, "a", "b", "c", details=("d",))
    store.set_status(OperationId("o1"), OperationStatus.FAILED, 6.0, error=error.as_dict())
    store.set_status(OperationId("o1"), OperationStatus.SUCCEEDED, 7.0)
    found = store.operation(OperationId("o1"))
    assert found is not None
    assert (found.status, found.started_at, found.ended_at) == (OperationStatus.FAILED, 5.0, 6.0)
    assert found.error is not None
    again = OperationalError.from_dict(found.error)
    assert (str(again), again.details) == (str(error), ("d",))


def test_a_list_of_operations_does_not_drag_their_results_along(store: Database) -> None:
    store.submit(operation(), anything)
    result: dict[str, object] = {"files": ["/a", "/b"]}
    ended = store.set_status(OperationId("o1"), OperationStatus.SUCCEEDED, 6.0, result=result)
    assert store.operation(OperationId("o1")) == ended
    assert ended.result == result
    assert store.operations() == [replace(ended, result=None)]


def test_cancelling_is_not_forgotten_by_a_late_start(store: Database) -> None:
    store.submit(operation(), anything)
    store.set_status(OperationId("o1"), OperationStatus.CANCELLING, 5.0)
    after = store.set_status(OperationId("o1"), OperationStatus.RUNNING, 6.0)
    assert after.status is OperationStatus.CANCELLING


def test_the_journal_counts_and_closes_what_a_dead_controller_left_open(store: Database) -> None:
    store.submit(operation(), anything)
    entry = JournalEntry(0, OperationId("o1"), "start a", "start", "a", "host", StepStatus.STARTED, 1.0)
    first, second = store.begin_step(entry), store.begin_step(entry)
    assert (first.sequence, second.sequence) == (1, 2)
    store.end_step(OperationId("o1"), 1, StepStatus.CHANGED, 2.0, "")
    store.interrupt_steps(OperationId("o1"), 3.0)
    assert [e.status for e in store.journal(OperationId("o1"))] == [
        StepStatus.CHANGED,
        StepStatus.INTERRUPTED,
    ]


def test_events_are_numbered_without_gaps_by_many_threads(store: Database) -> None:
    def add() -> None:
        for _ in range(20):
            store.add_event(Event(0, 1.0, "x", system="demo", attributes={"n": 1}))

    threads = [threading.Thread(target=add) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.sequence for event in store.events()] == list(range(1, 121))
    assert store.last_event() == 120
    assert store.events(after=118, system="demo")[0].attributes == {"n": 1}
    assert store.events(system="other") == []


def test_a_deleted_system_takes_its_revisions_and_marks_along(store: Database) -> None:
    store.submit(operation(), anything, Additions(systems=(record(),)))
    store.mark_ready(record().resolved.machines[0].id, ReadyMark("b", "d"))
    store.delete_system(SystemId("s1"))
    store.delete_system(SystemId("s1"))
    assert store.systems() == []
    assert store.ready_marks() == {}
    assert store.operation(OperationId("o1")) is not None


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(OperationalError, match="not a database"):
        Database(path, draw_id)


def test_a_database_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "forkbed.db"
    database = Database(path, draw_id)
    with closing(sqlite3.connect(path)) as other:
        other.execute("DROP TABLE events")
    with pytest.raises(OperationalError, match="cannot be read: no such table") as caught:
        database.events()
    assert caught.value.kind is Kind.FAULT


def test_the_end_of_a_step_and_its_event_are_one_transaction(store: Database) -> None:
    store.submit(operation(), anything)
    begun = JournalEntry(0, OperationId("o1"), "k", "cut", "a", "h", StepStatus.STARTED, 1.0)
    entry = store.begin_step(begun)
    ends: list[object] = []
    hear = ends.append
    sa.event.listen(sa.Engine, "commit", hear)
    try:
        told = Event(0, 2.0, "step.changed", attributes={"key": "k"})
        store.end_step(OperationId("o1"), entry.sequence, StepStatus.CHANGED, 2.0, "", told)
    finally:
        sa.event.remove(sa.Engine, "commit", hear)
    assert len(ends) == 1
    assert [each.status for each in store.journal(OperationId("o1"))] == [StepStatus.CHANGED]
    assert [(each.sequence, each.attributes) for each in store.events()] == [(1, {"key": "k"})]


def test_many_writers_take_turns_without_asking_again(tmp_path: Path) -> None:
    """SQLite's own waiting sleeps ever longer, up to 100 ms; nobody may depend on it."""
    store = Database(tmp_path / "forkbed.db", draw_id)

    @sa.event.listens_for(sa.Pool, "checkout")
    def impatient(raw: sqlite3.Connection, *_more: object) -> None:
        raw.execute("PRAGMA busy_timeout=0")

    try:
        failures: list[OperationalError] = []

        def write() -> None:
            try:
                for _ in range(20):
                    store.add_event(Event(0, 1.0, "step.changed"))
            except OperationalError as error:
                failures.append(error)

        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sa.event.remove(sa.Pool, "checkout", impatient)
    assert not failures
    assert store.last_event() == 160
