"""Snapshots, forks and intents through the client, over a real Unix socket."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx2
import pytest

from forkbed.api.bodies import ForkResult
from forkbed.api.client import Client
from forkbed.api.codec import decode
from forkbed.base.errors import Kind, OperationalError
from forkbed.core.networks.intents import IntentKind
from forkbed.core.operations.records import OperationKind
from forkbed.engine.branch_options import ForkOptions, SnapshotOptions
from forkbed.engine.branching import TreeKind, TreeNode
from tests.unit.api.fake import FakeController
from tests.unit.api.fake_branching import BOSS, CUT_AT, SNAPSHOT, STOPPED


@pytest.fixture
def fork(client: Client) -> str:
    client.fork("boss-ops", ForkOptions("try"))
    return "try"


def test_a_snapshot_is_asked_for_with_all_its_options(client: Client, controller: FakeController) -> None:
    options = SnapshotOptions("s1", disks_only=True, message="why", expires_in_s=3600.0)
    operation = client.snapshot("boss-ops", options)
    assert (operation.kind, operation.result) == (OperationKind.SNAPSHOT, {"snapshot": "s1"})
    assert client.snapshot("boss-ops").result == {"snapshot": "20261121-140211"}
    assert controller.calls == [("snapshot", options), ("snapshot", SnapshotOptions())]


def test_snapshots_are_listed_and_deleted(client: Client, controller: FakeController) -> None:
    assert client.snapshots("boss-ops") == [SNAPSHOT]
    assert client.snapshot_delete("boss-ops", "before-upgrade").kind is OperationKind.SNAPSHOT_DELETE
    with pytest.raises(OperationalError) as caught:
        client.snapshot_delete("boss-ops", "no/such snapshot?")
    assert caught.value.kind is Kind.NOT_FOUND
    assert controller.calls == [("snapshot_delete", "before-upgrade")]


def test_rollback(client: Client, controller: FakeController) -> None:
    assert client.rollback("boss-ops", "before-upgrade").result == {"kept": "before-rollback-1"}
    assert controller.calls == [("rollback", "before-upgrade")]


def test_forks_are_made_and_discarded(client: Client, controller: FakeController) -> None:
    options = ForkOptions("try", at="before-upgrade", cold=True, count=2, expires_in_s=60.0, message="m")
    operation = client.fork("boss-ops", options)
    found = decode(ForkResult, operation.result)
    assert found == ForkResult(("try-1", "try-2"), CUT_AT, 0.0012, (BOSS, STOPPED))
    assert [(system.name, system.fork_of, system.cut_at) for system in client.systems()] == [
        ("boss-ops", "", None),
        ("try-1", "boss-ops", CUT_AT),
        ("try-2", "boss-ops", CUT_AT),
    ]
    controller.kept_for = ("try-2",)
    assert client.discard("try-1").result == {"kept_for": ["try-2"]}
    assert client.fold("boss-ops").kind is OperationKind.FOLD
    assert [call for call, _ in controller.calls] == ["fork", "systems", "discard", "fold"]
    assert controller.calls[0] == ("fork", options)


def test_a_repeated_request_makes_one_fork(client: Client) -> None:
    first = client.fork("boss-ops", ForkOptions("try"), idempotency_key="k")
    assert client.fork("boss-ops", ForkOptions("try"), idempotency_key="k").id == first.id


def test_the_lineage_is_a_tree(client: Client, controller: FakeController) -> None:
    inner = TreeNode(TreeKind.FORK, "try-1-again", 3.0, "up", 4096, "deeper")
    fork = TreeNode(TreeKind.FORK, "try-1", 2.0, "up", 65536, "", 99.0, (inner,))
    controller.roots = [TreeNode(TreeKind.SYSTEM, "boss-ops", 1.0, "up", 2**31, "", None, (fork,))]
    assert client.tree() == controller.roots
    assert client.tree("boss-ops") == controller.roots
    with pytest.raises(OperationalError) as caught:
        client.tree("none")
    assert caught.value.kind is Kind.NOT_FOUND


def test_intents_are_listed(client: Client, controller: FakeController, fork: str) -> None:
    controller.attempt(IntentKind.DNS, port=53, name="example.org")
    controller.attempt(IntentKind.HTTP, host="example.org", method="GET", path="/")
    assert client.intents(fork) == controller.tried
    assert client.intents(fork, after=1) == controller.tried[1:]
    assert client.intents(fork, limit=1) == controller.tried[:1]
    assert client.intents(fork)[1].intent.details == {"method": "GET", "path": "/"}


def test_what_is_no_fork_has_no_intents(client: Client) -> None:
    for ask in (client.intents, lambda name: next(client.follow_intents(name))):
        with pytest.raises(OperationalError) as caught:
            ask("boss-ops")
        assert caught.value.kind is Kind.CONFLICT


def test_intents_are_followed_until_the_fork_is_gone(
    client: Client, controller: FakeController, fork: str
) -> None:
    controller.attempt(IntentKind.TCP)
    stream = client.follow_intents(fork)
    assert next(stream).cursor == 1
    controller.attempt(IntentKind.UDP)
    assert next(stream).intent.kind is IntentKind.UDP
    timer = threading.Timer(0.2, controller.fork_summaries.clear)
    timer.start()
    with pytest.raises(OperationalError) as caught:
        next(stream)
    timer.join()
    assert caught.value.kind is Kind.NOT_FOUND


def test_following_goes_on_after_the_last_one(client: Client, controller: FakeController, fork: str) -> None:
    for _ in range(3):
        controller.attempt(IntentKind.TCP)
    assert next(client.follow_intents(fork, after=2)).cursor == 3


def test_every_change_is_accepted_with_its_location(socket: Path) -> None:
    raw = httpx2.Client(transport=httpx2.HTTPTransport(uds=str(socket)), base_url="http://forkbed/v1/systems")
    with raw:
        for method, path, body in (
            ("POST", "/boss-ops/snapshots", {}),
            ("DELETE", "/boss-ops/snapshots/before-upgrade", None),
            ("POST", "/boss-ops/rollback", {"snapshot": "before-upgrade"}),
            ("POST", "/boss-ops/forks", {"name": "try"}),
            ("POST", "/try/discard", None),
            ("POST", "/boss-ops/fold", None),
        ):
            answer = raw.request(method, path, json=body)
            assert answer.status_code == 202, path
            assert answer.headers["location"] == f"/v1/operations/{answer.json()['id']}"
        assert raw.post("/boss-ops/forks", json={}).status_code == 422
