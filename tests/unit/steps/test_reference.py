"""The reference of steps names every key with its default, and its example is a good file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from forkbed.config.local_files import steps_files
from forkbed.config.schema import json_schema
from forkbed.config.steps import parse_steps
from forkbed.config.steps_model import StepsDocument
from forkbed.core.rehearsals.bundle import StepsBundle

TEXT = (Path(__file__).parents[3] / "docs" / "reference" / "steps.md").read_text()
UPGRADES = Path(__file__).parents[3] / "examples" / "boss-ops"
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
DEFAULTS = dict(re.findall(r"^\| `(\w+)` \| .*? \| (.*?) \| .*\|$", TEXT, re.MULTILINE))


def properties() -> list[tuple[str, dict[str, Any], bool]]:
    """Every key of every part, with whether it is required."""
    made = json_schema(StepsDocument, "s", [])
    return [
        (key, value, key in part.get("required", ()))
        for part in [made, *made["$defs"].values()]
        for key, value in part["properties"].items()
    ]


def test_the_example_is_good() -> None:
    (text,) = EXAMPLES
    files = dict.fromkeys(steps_files(text, "s.yaml"), b"#!/bin/sh\n")
    assert len(parse_steps(StepsBundle("s.yaml", text, files), ("boss", "ops")).steps) == 5


@pytest.mark.parametrize("name", ["upgrade.yaml", "upgrade-broken.yaml"])
def test_the_example_upgrades_are_good(name: str) -> None:
    """The broken one differs by one mode alone: its steps are to succeed, and its checks are to fail."""
    file = UPGRADES / name
    text = file.read_text()
    files = {path: (UPGRADES / path).read_bytes() for path in steps_files(text, name)}
    *_, last = parse_steps(StepsBundle(name, text, files), ("boss", "ops")).steps
    assert [(pushed.path, pushed.mode) for pushed in last.files] == [
        ("/usr/local/bin/experiments", 0o755 if name == "upgrade.yaml" else 0o644)
    ]


@pytest.mark.parametrize(("key", "value", "required"), properties())
def test_every_key_is_there_with_its_default(key: str, value: dict[str, Any], required: bool) -> None:
    assert key in DEFAULTS, f"`{key}` is in no table"
    if required:
        assert DEFAULTS[key] == "required"
    elif "default" in value and not isinstance(value["default"], (dict, list)):
        default = value["default"]
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        assert f"`{shown}`" in DEFAULTS[key]
