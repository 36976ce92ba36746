"""Operations and events as they happen, and going on after the connection or the server broke."""

from __future__ import annotations

import contextlib
import io
import socket as sockets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from forkbed.api.client import Client
from forkbed.base.errors import Kind, OperationalError
from forkbed.core.operations.records import OperationStatus, StepStatus
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.engine.requests import OperationDetail
from tests.unit.api.fake import FakeController
from tests.unit.api.running import running_server

BUNDLE = ManifestBundle("system.yaml", "version: 1\n")


@pytest.fixture
def operation_id(client: Client, controller: FakeController) -> str:
    controller.auto_succeed = False
    return client.up(BUNDLE).id


def _messages(response: httpx2.Response) -> Iterator[tuple[str, str]]:
    number = kind = ""
    for line in response.iter_lines():
        if line.startswith("id: "):
            number = line[4:]
        elif line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            yield number, kind


def test_each_update_holds_the_steps_that_changed(
    client: Client, controller: FakeController, operation_id: str
) -> None:
    updates = client.follow_operation(operation_id)
    assert next(updates).journal == ()
    controller.advance(operation_id, step=("start", "boss", StepStatus.STARTED, "booting"))
    assert [(e.key, e.message) for e in next(updates).journal] == [("start boss", "booting")]
    controller.advance(operation_id, step=("start", "ops", StepStatus.STARTED, ""))
    assert [e.key for e in next(updates).journal] == ["start ops"]
    controller.advance(operation_id, step=("start", "boss", StepStatus.CHANGED, ""))
    assert [(e.key, e.status) for e in next(updates).journal] == [("start boss", StepStatus.CHANGED)]
    controller.advance(operation_id, status=OperationStatus.SUCCEEDED)
    assert next(updates).operation.status is OperationStatus.SUCCEEDED
    assert list(updates) == []


def test_wait_returns_the_end_whatever_it_is(
    client: Client, controller: FakeController, operation_id: str
) -> None:
    error = OperationalError(Kind.FAULT, "machine boss", "did not start", details=("qemu: no",))
    threading.Timer(
        0.2, controller.advance, (operation_id,), {"status": OperationStatus.FAILED, "error": error}
    ).start()
    ended = client.wait(operation_id)
    assert ended.status is OperationStatus.FAILED
    assert ended.error == error.as_dict()


def test_an_operation_that_has_ended_is_told_once(
    client: Client, controller: FakeController, operation_id: str, socket: Path
) -> None:
    controller.advance(operation_id, status=OperationStatus.SUCCEEDED)
    assert [update.version for update in client.follow_operation(operation_id)] == [2]
    # Nothing is new for a follower that saw the last version: the server says so, and the client looks itself.
    assert [update.version for update in client.follow_operation(operation_id, after=2)] == [2]
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(socket)), base_url="http://forkbed") as raw:
        answer = raw.get(f"/v1/operations/{operation_id}/events", headers={"Last-Event-ID": "2"})
    assert answer.status_code == 204


def test_messages_have_ids_and_resume_after_them(
    controller: FakeController, operation_id: str, socket: Path
) -> None:
    controller.advance(operation_id, step=("start", "boss", StepStatus.STARTED, ""))
    controller.advance(operation_id, status=OperationStatus.SUCCEEDED)
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(socket)), base_url="http://forkbed") as raw:
        path = f"/v1/operations/{operation_id}/events"
        with raw.stream("GET", path, headers={"Last-Event-ID": "1"}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert list(_messages(response)) == [("3", "update")]


def test_a_restart_of_the_server_is_survived(controller: FakeController, tmp_path: Path) -> None:
    path = tmp_path / "again.sock"
    controller.auto_succeed = False
    gaps: list[OperationalError] = []
    seen: list[OperationDetail] = []
    with Client(path) as client:
        with running_server(controller, path):
            operation_id = client.up(BUNDLE).id
            updates = client.follow_operation(operation_id, on_gap=gaps.append)
            seen.append(next(updates))
        threading.Timer(
            1.0, controller.advance, (operation_id,), {"status": OperationStatus.SUCCEEDED}
        ).start()
        answer: list[OperationDetail] = []
        follower = threading.Thread(target=lambda: answer.extend(updates))
        follower.start()
        time.sleep(0.7)
        with running_server(controller, path):
            follower.join(20)
    assert not follower.is_alive()
    assert answer[-1].operation.status is OperationStatus.SUCCEEDED
    assert len(gaps) == 1


def test_a_server_that_stays_away_is_given_up(controller: FakeController, tmp_path: Path) -> None:
    path = tmp_path / "gone.sock"
    controller.auto_succeed = False
    with Client(path) as client:
        with running_server(controller, path):
            updates = client.follow_operation(client.up(BUNDLE).id, patience_s=0.5)
            next(updates)
        with pytest.raises(OperationalError) as caught:
            next(updates)
    assert caught.value.kind is Kind.UNREACHABLE


def test_events_are_followed_and_filtered(client: Client, controller: FakeController) -> None:
    controller.happen("one")
    controller.happen("two", system="other")
    everything, some = client.follow_events(), client.follow_events(system="other")
    assert [next(everything).kind, next(everything).kind] == ["one", "two"]
    assert next(some).kind == "two"
    controller.happen("three", system="other")
    assert next(everything).kind == next(some).kind == "three"


def test_many_followers_leave_room_for_requests(
    client: Client, controller: FakeController, operation_id: str, socket: Path
) -> None:
    followers = [client.follow_operation(operation_id) for _ in range(45)]
    for follower in followers:
        next(follower)
    started = time.monotonic()
    assert client.systems()
    assert time.monotonic() - started < 5
    for follower in followers:
        follower.close()  # type: ignore[attr-defined]


def test_one_stream_too_many_is_refused(controller: FakeController, tmp_path: Path) -> None:
    path = tmp_path / "few.sock"
    with running_server(controller, path, streams=1), Client(path) as client:
        controller.happen("one")
        first = client.follow_events()
        next(first)
        with pytest.raises(OperationalError) as caught:
            next(client.follow_events())
        assert caught.value.kind is Kind.BUSY


def test_the_server_ends_in_time_with_followers_connected(controller: FakeController, tmp_path: Path) -> None:
    path = tmp_path / "ending.sock"
    with Client(path) as client:
        with running_server(controller, path):
            controller.happen("one")
            next(client.follow_events())
            started = time.monotonic()
        assert time.monotonic() - started < 4


def test_a_dead_servers_socket_is_replaced_and_a_living_ones_is_not(
    controller: FakeController, tmp_path: Path
) -> None:
    path = tmp_path / "left.sock"
    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(str(path))
    with running_server(controller, path):
        assert path.stat().st_mode & 0o777 == 0o660
        with pytest.raises(OperationalError) as caught, running_server(controller, path):
            pass
        assert caught.value.kind is Kind.CONFLICT


@contextlib.contextmanager
def dying_server(path: Path, requests: int) -> Iterator[None]:
    """A server that takes so many requests and answers none; then it is gone."""

    def take() -> None:
        with listening:
            for _ in range(requests):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
        path.unlink()

    listening = sockets.socket(sockets.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    thread = threading.Thread(target=take)
    thread.start()
    yield
    thread.join()


def test_a_download_that_ends_early_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"

    def answer() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    with sockets.socket(sockets.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=answer)
        thread.start()
        with Client(path) as client, pytest.raises(OperationalError) as failure:
            client.image_export("boss", io.BytesIO())
        thread.join()
    assert failure.value.kind is Kind.UNREACHABLE


def test_a_write_whose_server_died_is_asked_of_the_next_one(tmp_path: Path) -> None:
    """The server may have accepted it: whoever asked would not know."""
    path, answers = tmp_path / "api.sock", []

    def ask() -> None:
        with Client(path) as client:
            answers.append(client.up(BUNDLE))

    asking = threading.Thread(target=ask)
    with dying_server(path, 1):
        asking.start()
    with running_server(FakeController(tmp_path), path):
        asking.join(10)
    assert [operation.subject for operation in answers] == ["boss-ops"]


def test_a_request_that_kills_every_server_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with dying_server(path, 2), Client(path) as client, pytest.raises(OperationalError) as failure:
        client.up(BUNDLE)
    assert failure.value.kind is Kind.UNREACHABLE


def test_a_read_waits_for_no_other_server(tmp_path: Path) -> None:
    """Nothing is lost with it, and whoever asked may ask again."""
    path = tmp_path / "api.sock"
    asked_at = time.monotonic()
    with dying_server(path, 1), Client(path) as client, pytest.raises(OperationalError) as failure:
        client.systems()
    assert failure.value.kind is Kind.UNREACHABLE
    assert time.monotonic() - asked_at < 10
