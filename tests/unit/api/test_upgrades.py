"""Rehearsals, comparisons, promotions and generations through the client, over a real Unix socket."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from forkbed.api.client import Client
from forkbed.api.codec import decode
from forkbed.api.upgrades import PromoteResult, RehearseResult
from forkbed.base.errors import Kind, OperationalError
from forkbed.core.diffs.systems import SystemDifference
from forkbed.core.operations.records import OperationKind
from forkbed.core.rehearsals.bundle import StepsBundle
from forkbed.engine.promoting import DiffOptions, PromoteOptions, RehearseOptions
from tests.unit.api.fake import FakeController
from tests.unit.api.fake_promoting import DIFFERENCE, FAILED, GENERATIONS, LOSS, PREDICTION, REHEARSAL

STEPS = StepsBundle("up.yaml", "version: 1\n", {"app/main.py": b"\x00\xff"})


def test_a_rehearsal_is_asked_for_with_its_files(client: Client, controller: FakeController) -> None:
    options = RehearseOptions("again", twice=True)
    operation = client.rehearse("boss-ops", STEPS, options)
    assert operation.kind is OperationKind.REHEARSE
    assert decode(RehearseResult, operation.result) == RehearseResult("again", True)
    assert controller.calls == [("rehearse", (STEPS, options))]
    assert client.rehearse("boss-ops", STEPS).result == {"rehearsal": "boss-ops-rehearsal-1", "passed": True}


def test_a_repeated_request_makes_one_rehearsal(client: Client) -> None:
    first = client.rehearse("boss-ops", STEPS, idempotency_key="k")
    assert client.rehearse("boss-ops", STEPS, idempotency_key="k").id == first.id


def test_rehearsals_are_listed_whole(client: Client) -> None:
    assert client.rehearsals("boss-ops") == [REHEARSAL, FAILED]
    with pytest.raises(OperationalError) as caught:
        client.rehearsals("none")
    assert caught.value.kind is Kind.NOT_FOUND


def test_a_comparison_arrives_whole(client: Client, controller: FakeController) -> None:
    controller.make_fork("try", controller.systems()[0])
    controller.calls.clear()
    options = DiffOptions(base=True, paths=("/etc", "/srv"), texts=True, everything=True)
    operation = client.diff("boss-ops", "try", options)
    assert operation.kind is OperationKind.DIFF
    assert decode(SystemDifference, operation.result) == DIFFERENCE
    assert controller.calls == [("diff", ("boss-ops", "try", options))]
    client.diff("try", "boss-ops")
    assert controller.calls[-1] == ("diff", ("try", "boss-ops", DiffOptions()))


def test_a_promotion_is_planned_and_done(client: Client, controller: FakeController) -> None:
    options = PromoteOptions(max_freeze_s=5.0, keep_attempt=False)
    plan = client.promotion_plan("try", options)
    assert (plan.generation, plan.prediction, plan.refusal) == (2, PREDICTION, "")
    assert plan.prediction.total_s == pytest.approx(4.3)
    operation = client.promote("try", options)
    assert operation.kind is OperationKind.PROMOTE
    assert decode(PromoteResult, operation.result) == PromoteResult(2, 4.6, 4.3, "boss-ops-1")
    assert controller.calls == [("promotion_plan", options), ("promote", ("try", options))]
    client.promote("try")
    assert controller.calls[-1] == ("promote", ("try", PromoteOptions()))


def test_a_promotion_is_refused(client: Client, controller: FakeController) -> None:
    controller.refusal = "it failed"
    assert client.promotion_plan("bad").refusal == "it failed"
    for name, kind in (("bad", Kind.CONFLICT), ("no/such?", Kind.NOT_FOUND)):
        with pytest.raises(OperationalError) as caught:
            client.promote(name)
        assert caught.value.kind is kind


def test_a_revert_says_what_would_be_lost(client: Client, controller: FakeController) -> None:
    controller.would_lose = True
    with pytest.raises(OperationalError) as caught:
        client.revert("boss-ops")
    assert caught.value.as_dict() == LOSS.as_dict()
    assert client.revert("boss-ops", accept_loss=True).kind is OperationKind.REVERT
    assert controller.calls == [("revert", False), ("revert", True)]


def test_generations_and_maintenance(client: Client, controller: FakeController) -> None:
    assert client.generations("boss-ops") == list(GENERATIONS)
    assert client.maintenance("boss-ops", on=True).kind is OperationKind.MAINTENANCE
    client.maintenance("boss-ops", on=False)
    assert controller.calls == [("maintenance", True), ("maintenance", False)]


def test_every_change_is_accepted_with_its_location(socket: Path, controller: FakeController) -> None:
    controller.make_fork("try", controller.systems()[0])
    bundle = {"file_name": "up.yaml", "text": "version: 1\n"}
    raw = httpx2.Client(transport=httpx2.HTTPTransport(uds=str(socket)), base_url="http://forkbed/v1")
    with raw:
        for path, body in (
            ("/systems/boss-ops/rehearsals", {"bundle": bundle}),
            ("/diffs", {"left": "boss-ops", "right": "try"}),
            ("/rehearsals/try/promote", {}),
            ("/systems/boss-ops/revert", {}),
            ("/systems/boss-ops/maintenance", {"on": True}),
        ):
            answer = raw.post(path, json=body)
            assert answer.status_code == 202, path
            assert answer.headers["location"] == f"/v1/operations/{answer.json()['id']}"
        assert raw.post("/systems/boss-ops/maintenance", json={}).status_code == 422
        broken = {"bundle": {**bundle, "files": {"a": "!!"}}}
        assert raw.post("/systems/boss-ops/rehearsals", json=broken).status_code == 422
