"""The references name everything there is: commands, options, routes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cyclopts import App

from forkbed.api.server.app import create_app
from forkbed.api.server.context import Context
from forkbed.api.server.threads import StreamThreads
from forkbed.base.errors import Kind
from forkbed.cli.main import COMMANDS, make_app
from tests.unit.api.fake import FakeController

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"
_OTHERS = {"lab", "host", "doctor", "schema"}


def _options(app: App, root: App) -> Iterator[str]:
    for argument in app.assemble_argument_collection(default_parameter=root.default_parameter):
        yield from (name for name in argument.names if name.startswith("--"))


def test_the_command_lines_reference_is_complete() -> None:
    text = (REFERENCE / "cli.md").read_text()
    root = make_app()
    for name in COMMANDS:
        assert re.search(rf"`{name}[ `]", text), name
        if name in _OTHERS:
            continue
        command = root[name]
        subcommands = [word for word in command if not word.startswith("-")]
        for word in subcommands:
            assert re.search(rf"`{name} \[?{word}", text), f"{name} {word}"
        for app in (command, *(command[word] for word in subcommands)):
            if app.default_command is None:
                continue
            for option in _options(app, root):
                assert f"{option}`" in text or f"{option} " in text, f"{name} {option}"
    for kind in Kind:
        assert f"| {kind.exit_status} | {kind} |" in text


def test_the_apis_reference_is_complete(tmp_path: Path) -> None:
    text = (REFERENCE / "http-api.md").read_text()
    app = create_app(Context(FakeController(tmp_path), StreamThreads(1), tmp_path))
    routes = {
        f"{method.upper()} {path}"
        for path, operations in app.openapi()["paths"].items()
        for method in operations
    }
    assert routes <= set(re.findall(r"`((?:GET|POST|DELETE|PUT) /v1[^`]*)`", text))
    for kind in Kind:
        assert re.search(rf"\| {kind} \| {kind.http_status} \|", text)
