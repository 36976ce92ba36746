"""The reference names every key with its default, and its examples are manifests that work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from forkbed.config.local_files import local_files
from forkbed.config.manifest import parse_manifest
from forkbed.config.manifest_model import Manifest
from forkbed.config.schema import json_schema
from forkbed.core.systems.bundle import ManifestBundle
from tests.unit.manifest.specs import KEY

TEXT = (Path(__file__).parents[3] / "docs" / "reference" / "manifest.md").read_text()
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
ROWS = {(row[0], row[2]) for row in re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| .*\|$", TEXT, re.MULTILINE)}


def properties() -> list[tuple[str, dict[str, Any], bool]]:
    """Every key of every part of a manifest, with whether it is required."""
    made = json_schema(Manifest, "m", [])
    parts = [arm for part in [made, *made["$defs"].values()] for arm in [part, *part.get("anyOf", [])]]
    return [
        (key, value, key in part.get("required", ()))
        for part in parts
        for key, value in part.get("properties", {}).items()
        if not (part.get("description", "").startswith(("A public key", "User-data")))  # written out in prose
    ]


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_are_good(text: str) -> None:
    wanted = local_files(text, "m.yaml")
    files = dict.fromkeys(wanted.files, KEY.encode())
    parse_manifest(ManifestBundle("m.yaml", text, files, dict.fromkeys(wanted.secrets, b"x")))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize(("key", "value", "required"), properties())
def test_every_key_is_there_with_its_default(key: str, value: dict[str, Any], required: bool) -> None:
    defaults = [default for name, default in ROWS if name == key]
    assert defaults, f"`{key}` is in no table"
    if required:
        assert any("required" in default for default in defaults)
    elif value.get("default") and not isinstance(value["default"], (dict, list)):
        assert any(f"`{value['default']}`" in default for default in defaults), (value["default"], defaults)
