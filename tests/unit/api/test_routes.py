"""Every route through the client, over a real Unix socket."""

from __future__ import annotations

import io
import socket as sockets
from pathlib import Path

import httpx2
import pytest

from forkbed.api.client import Client
from forkbed.api.contract import BODY_LIMIT_BYTES, ExportFormat
from forkbed.base.errors import Kind, OperationalError
from forkbed.core.operations.records import OperationKind, OperationStatus
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.engine.requests import PowerAction, UpOptions
from forkbed.ports.images import RecipeBundle
from tests.unit.api.fake import IMAGE_ID, PLAN, FakeController

BUNDLE = ManifestBundle("system.yaml", "version: 1\n", {"a": b"\x00"}, {"s": b"secret"}, {"v": "1"})


@pytest.fixture
def raw(socket: Path) -> httpx2.Client:
    return httpx2.Client(transport=httpx2.HTTPTransport(uds=str(socket)), base_url="http://forkbed")


def test_plan(client: Client, controller: FakeController) -> None:
    options = UpOptions(restart=True, destroy=frozenset({"old", "boss/data"}))
    assert client.plan(BUNDLE, options) == PLAN
    assert controller.calls == [("plan", (BUNDLE, options))]


def test_every_error_of_a_manifest_arrives(client: Client) -> None:
    with pytest.raises(OperationalError) as caught:
        client.plan(ManifestBundle("m.yaml", "broken"))
    assert caught.value.kind is Kind.INVALID
    assert caught.value.details == ("m.yaml:3:5: machines.boss.cpu: unknown key; did you mean cpus?",) * 2
    assert caught.value.remedy == "correct them and try again"


def test_up_starts_an_operation_for_whoever_asks(client: Client, controller: FakeController) -> None:
    operation = client.up(BUNDLE, UpOptions(restart=True))
    assert operation.kind is OperationKind.UP
    assert operation.requester.uid == 0
    assert operation.requester.account == "root"
    assert operation.requester.command == "forkbed test --all"
    assert controller.calls == [("up", (BUNDLE, UpOptions(restart=True)))]


def test_up_at_another_revision_is_a_conflict(client: Client) -> None:
    client.up(BUNDLE, if_match=3)
    with pytest.raises(OperationalError, match="revision 3, not 2") as caught:
        client.up(BUNDLE, if_match=2)
    assert caught.value.kind is Kind.CONFLICT


def test_the_same_idempotency_key_answers_with_the_same_operation(client: Client) -> None:
    first = client.up(BUNDLE, idempotency_key="k1")
    assert client.up(BUNDLE, idempotency_key="k1").id == first.id
    assert client.up(BUNDLE).id != first.id


def test_down_and_power(client: Client, controller: FakeController) -> None:
    assert client.down("boss-ops", delete=True).kind is OperationKind.DOWN
    assert client.power("boss-ops", PowerAction.STOP, ("boss",), force=True).kind is OperationKind.POWER
    assert controller.calls == [("down", True), ("power", (("boss",), PowerAction.STOP, True))]


def test_systems(client: Client, controller: FakeController) -> None:
    assert client.systems() == controller.systems()
    assert client.system("boss-ops") == controller.system("boss-ops")
    assert "# revision 2" in client.system("boss-ops", revision=2).manifest
    assert client.history("boss-ops") == controller.history("boss-ops")


def test_an_unknown_system_is_not_found(client: Client) -> None:
    for ask in (client.system, client.history, client.down):
        with pytest.raises(OperationalError) as caught:
            ask("no such system")
        assert caught.value.kind is Kind.NOT_FOUND
        assert caught.value.subject == "system no such system"


def test_operations(client: Client, controller: FakeController) -> None:
    controller.auto_succeed = False
    first, second = client.up(BUNDLE), client.down("boss-ops")
    assert client.operations() == [second, first]
    assert client.operations(limit=1) == [second]
    assert client.operation(first.id).operation == first
    assert client.cancel(first.id).status is OperationStatus.CANCELLED
    assert client.operations(active_only=True) == [second]
    assert client.operations(system="other") == []


def test_events(client: Client, controller: FakeController) -> None:
    controller.happen("machine.crashed", reason="panic")
    controller.happen("operation.started", system="other")
    assert [event.kind for event in client.events()] == ["machine.crashed", "operation.started"]
    assert client.events()[0].attributes == {"reason": "panic"}
    assert [event.sequence for event in client.events(after=1)] == [2]
    assert [event.sequence for event in client.events(system="other")] == [2]


def test_images(client: Client, controller: FakeController) -> None:
    assert client.images() == controller.images()
    assert client.image("boss:dev").id == IMAGE_ID
    assert client.image_tag("boss:dev", "boss:production").name == "boss:production"
    assert client.image_history("boss:dev")[0].image_id == IMAGE_ID
    with pytest.raises(OperationalError, match="uses it") as caught:
        client.image_remove("boss:dev")
    assert caught.value.kind is Kind.CONFLICT
    recipe = RecipeBundle("boss.yaml", "base: micro", {"x": b"1"})
    assert client.image_build(recipe).kind is OperationKind.IMAGE_BUILD
    assert controller.calls[-1] == ("image_build", recipe)


def test_an_image_is_uploaded_and_downloaded(
    client: Client, controller: FakeController, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 40_000
    operation = client.image_import(io.BytesIO(content), "mine", size_bytes=len(content))
    assert operation.kind is OperationKind.IMAGE_IMPORT
    assert controller.imported == content
    target = io.BytesIO()
    assert client.image_export("boss:dev", target, ExportFormat.RAW) == 3_000_000
    assert target.getvalue() == b"raw" * 1_000_000
    assert list((tmp_path / "transfers").iterdir()) == []


def test_a_refused_upload_leaves_nothing(client: Client, tmp_path: Path) -> None:
    with pytest.raises(OperationalError, match="backing file"):
        client.image_import(io.BytesIO(b"x" * 100), "refused")
    with pytest.raises(OperationalError, match="larger than 64 MiB"):
        client.image_import(io.BytesIO(bytes(65 * 1024**2)), "told", size_bytes=65 * 1024**2)
    with pytest.raises(OperationalError, match="larger than 64 MiB"):
        client.image_import(_Endless(), "untold")
    with pytest.raises(OperationalError, match="there is none"):
        client.image_export("nothing", io.BytesIO())
    assert list((tmp_path / "transfers").iterdir()) == []


class _Endless(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        return bytes(size or 1)


def test_garbage(client: Client, controller: FakeController) -> None:
    report = client.garbage(dry_run=True)
    assert report.operation is None
    assert report.items[0].size_bytes == 4096
    assert client.garbage().operation is not None


def test_about(client: Client) -> None:
    assert client.about()["installation"] == "t3st"


def test_headers_of_answers(raw: httpx2.Client) -> None:
    shown = raw.get("/v1/systems/boss-ops")
    assert shown.headers["etag"] == '"3"'
    body = {"bundle": {"file_name": "m", "text": ""}}
    started = raw.post("/v1/systems", json=body, headers={"If-Match": shown.headers["etag"]})
    assert started.status_code == 202
    assert started.headers["location"] == f"/v1/operations/{started.json()['id']}"
    assert started.json()["requester"]["command"] == "POST /v1/systems"
    assert raw.get(started.headers["location"]).json()["operation"]["id"] == started.json()["id"]


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/v1/nothing", {}, 404),
        ("PUT", "/v1/systems", {}, 405),
        ("POST", "/v1/systems", {"json": {}}, 422),
        ("POST", "/v1/systems", {"content": b"{", "headers": {"content-type": "application/json"}}, 422),
        ("POST", "/v1/systems", {"content": iter([b"{}"])}, 411),
        ("GET", "/v1/operations?limit=0", {}, 422),
        ("GET", "/v1/operations/x", {}, 404),
        ("GET", "/v1/operations/x/events", {}, 404),
        ("POST", "/v1/systems/boss-ops/down", {"json": {}, "headers": {"if-match": "3"}}, 422),
        ("POST", "/v1/systems/boss-ops/power", {"json": {"action": "explode"}}, 422),
    ],
)
def test_every_refusal_is_a_problem_document(
    raw: httpx2.Client, method: str, path: str, options: dict[str, object], status: int
) -> None:
    answer = raw.request(method, path, **options)  # type: ignore[arg-type]
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["type"].startswith("urn:forkbed:problem:")
    assert document["status"] == status
    assert document["title"] and document["detail"]


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(socket: Path) -> None:
    with sockets.socket(sockets.AF_UNIX) as connection:
        connection.connect(str(socket))
        length = BODY_LIMIT_BYTES + 1
        connection.sendall(
            f"POST /v1/systems HTTP/1.1\r\nhost: f\r\ncontent-length: {length}\r\n\r\n".encode()
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_error_arrives_as_it_was_raised(
    client: Client, controller: FakeController, kind: Kind
) -> None:
    controller.error = OperationalError(kind, "machine a/b", "no", "do this", details=("x",))
    with pytest.raises(OperationalError) as caught:
        client.systems()
    assert caught.value.as_dict() == controller.error.as_dict()


def test_an_error_in_forkbed_is_told_as_one(client: Client, controller: FakeController) -> None:
    controller.error = ZeroDivisionError("oh")  # type: ignore[assignment]
    with pytest.raises(OperationalError, match="error in Forkbed: ZeroDivisionError") as caught:
        client.systems()
    assert caught.value.kind is Kind.FAULT


def test_without_a_server_it_says_how_to_start_one(tmp_path: Path) -> None:
    with Client(tmp_path / "none.sock") as client, pytest.raises(OperationalError) as caught:
        client.systems()
    assert caught.value.kind is Kind.UNREACHABLE
    assert "forkbed serve --detach" in caught.value.remedy
