"""The OpenAPI document is complete, and the server keeps to it whatever it is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import Phase, given, settings

from forkbed.api.server.app import create_app
from forkbed.api.server.context import Context
from forkbed.api.server.peers import Peer
from forkbed.api.server.threads import StreamThreads
from tests.unit.api.fake import FakeController

_ROUTES = [
    ("post", "/v1/plans"),
    ("post", "/v1/systems"),
    ("get", "/v1/systems"),
    ("get", "/v1/systems/{system}"),
    ("get", "/v1/systems/{system}/revisions"),
    ("post", "/v1/systems/{system}/down"),
    ("post", "/v1/systems/{system}/power"),
    ("get", "/v1/systems/{system}/machines/{machine}/log"),
    ("post", "/v1/systems/{system}/snapshots"),
    ("get", "/v1/systems/{system}/snapshots"),
    ("delete", "/v1/systems/{system}/snapshots/{snapshot}"),
    ("post", "/v1/systems/{system}/rollback"),
    ("post", "/v1/systems/{system}/forks"),
    ("post", "/v1/systems/{system}/discard"),
    ("post", "/v1/systems/{system}/fold"),
    ("get", "/v1/systems/{system}/intents"),
    ("get", "/v1/tree"),
    ("post", "/v1/systems/{system}/rehearsals"),
    ("get", "/v1/systems/{system}/rehearsals"),
    ("post", "/v1/diffs"),
    ("post", "/v1/rehearsals/{rehearsal}/plan"),
    ("post", "/v1/rehearsals/{rehearsal}/promote"),
    ("post", "/v1/systems/{system}/revert"),
    ("get", "/v1/systems/{system}/generations"),
    ("post", "/v1/systems/{system}/maintenance"),
    ("get", "/v1/operations"),
    ("get", "/v1/operations/{operation_id}"),
    ("post", "/v1/operations/{operation_id}/cancel"),
    ("get", "/v1/operations/{operation_id}/events"),
    ("get", "/v1/events"),
    ("get", "/v1/images"),
    ("post", "/v1/images/builds"),
    ("post", "/v1/images/imports"),
    ("get", "/v1/images/{ref}"),
    ("delete", "/v1/images/{ref}"),
    ("post", "/v1/images/{ref}/tags"),
    ("get", "/v1/images/{ref}/tags"),
    ("get", "/v1/images/{ref}/content"),
    ("get", "/v1/about"),
    ("post", "/v1/garbage-collections"),
]

_WITH_FILES = [
    ("post", "/v1/plans"),
    ("post", "/v1/systems"),
    ("post", "/v1/images/builds"),
    ("post", "/v1/systems/{system}/rehearsals"),
]


class _AsRoot:
    """The application as uvicorn would call it for root's connection."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            scope["state"] = {**scope.get("state", {}), "peer": Peer(0, 0, "root")}
        await self._app(scope, receive, send)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    context = Context(
        FakeController(tmp_path_factory.mktemp("g")), StreamThreads(1), tmp_path_factory.mktemp("t")
    )
    schema: dict[str, Any] = create_app(context).openapi()
    return schema


def test_every_route_is_described(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        assert path.startswith("/v1/")
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["summary"] and operation["description"], where
            assert operation["tags"], where
            problems = [answer for status, answer in operation["responses"].items() if status >= "400"]
            assert len(problems) >= 4, where
            assert all(list(answer["content"]) == ["application/problem+json"] for answer in problems), where
            for parameter in operation.get("parameters", ()):
                assert parameter.get("description"), where


def test_every_route_is_tested_here(document: dict[str, Any]) -> None:
    described = {(method, path) for path, operations in document["paths"].items() for method in operations}
    assert described == set(_ROUTES)


def test_every_reference_is_there(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert "ProblemDocument" in schemas
    assert "HTTPValidationError" not in schemas
    missing = [name for name in _references(document) if name not in schemas]
    assert missing == []


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"].rpartition("/")[2]] if isinstance(node.get("$ref"), str) else []
        return own + [name for value in node.values() for name in _references(value)]
    return [name for value in node for name in _references(value)] if isinstance(node, list) else []


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("api")
    context = Context(FakeController(directory), StreamThreads(10), Path(directory) / "transfers")
    context.threads.stopping.set()  # endless streams end at once
    return schemathesis.openapi.from_asgi("/v1/openapi.json", _AsRoot(create_app(context)))


@pytest.mark.parametrize(("method", "path"), _ROUTES)
def test_the_server_keeps_to_it(api: Any, method: str, path: str) -> None:
    excluded = [schemathesis.checks.unsupported_method]
    if (method, path) in _WITH_FILES:
        # That a text is base64 is said in words: the schema knows no such texts.
        excluded.append(schemathesis.checks.positive_data_acceptance)

    @settings(max_examples=12, deadline=None, derandomize=True, database=None, phases=(Phase.generate,))
    @given(api[path][method].as_strategy())
    def check(case: Any) -> None:
        case.call_and_validate(excluded_checks=excluded)

    check()
