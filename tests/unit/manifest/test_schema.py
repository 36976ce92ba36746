"""The JSON Schemas are valid ones, know every key, and agree with the readers on real documents."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import HealthCheck, given, settings

from benchmarks.manifests import large_manifest
from forkbed.cli.commands.schema import schema
from forkbed.config.local_files import steps_files
from forkbed.config.manifest import parse_manifest
from forkbed.config.manifest_model import Manifest
from forkbed.config.recipe import RecipeDocument, parse_recipe
from forkbed.config.schema import MANIFEST_EXAMPLE, RECIPE_EXAMPLE, STEPS_EXAMPLE, json_schema
from forkbed.config.steps import parse_steps
from forkbed.config.steps_model import StepsDocument
from forkbed.core.images.bundle import RecipeBundle
from forkbed.core.rehearsals.bundle import StepsBundle
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.core.systems.spec import SystemSpec
from tests.unit.manifest.specs import systems

ROOT = Path(__file__).parents[3]
MANIFEST = json_schema(Manifest, "m", [MANIFEST_EXAMPLE])
RECIPE = json_schema(RecipeDocument, "r", [RECIPE_EXAMPLE])
STEPS = json_schema(StepsDocument, "s", [STEPS_EXAMPLE])


class _Editor(yaml.SafeLoader):  # type: ignore[misc]
    """Reads YAML 1.2, as editors do: `on` and `off` are texts."""


_Editor.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Editor.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false"), ["t", "f"])


def read(text: str) -> Any:
    return yaml.load(text, _Editor)


def validator(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(schema)


@pytest.mark.parametrize("made", [MANIFEST, RECIPE, STEPS], ids=["manifest", "recipe", "steps"])
def test_a_schema_is_one_and_its_examples_obey_it(made: dict[str, Any]) -> None:
    jsonschema_rs.meta.validate(made)
    for example in made["examples"]:
        validator(made).validate(example)


def test_the_examples_are_accepted_by_the_readers() -> None:
    parse_manifest(ManifestBundle("m", yaml.safe_dump(MANIFEST_EXAMPLE)))
    parse_recipe(RecipeBundle("r", yaml.safe_dump(RECIPE_EXAMPLE), {"app.conf": b""}))
    files = {"main.py": b"", "migrate.sh": b"#!/bin/sh"}
    parse_steps(StepsBundle("s", yaml.safe_dump(STEPS_EXAMPLE), files), ["web", "db"])


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*/system.yaml")), ids=lambda path: path.parent.name
)
def test_the_examples_that_ship_obey_the_schema(path: Path) -> None:
    validator(MANIFEST).validate(read(path.read_text()))


def test_the_steps_that_ship_are_good() -> None:
    for path in (ROOT / "examples").glob("*/upgrade*.yaml"):
        text = path.read_text()
        validator(STEPS).validate(read(text))
        files = {name: (path.parent / name).read_bytes() for name in steps_files(text, path.name)}
        system = read((path.parent / "system.yaml").read_text())
        parse_steps(StepsBundle(path.name, text, files), list(system["machines"]))


def test_a_large_manifest_obeys_the_schema() -> None:
    validator(MANIFEST).validate(read(large_manifest(50)))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(systems())
def test_what_the_reader_accepts_the_schema_accepts(case: tuple[SystemSpec, ManifestBundle]) -> None:
    validator(MANIFEST).validate(read(case[1].text))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"sistem": "x"}, ""),
        ({"version": 2}, "/version"),
        ({"machines": {"a": {"image": "i", "memroy": "1GiB"}}}, "/machines/a"),
        ({"machines": {"a": {"image": "i", "memory": 512}}}, "/machines/a/memory"),
        ({"machines": {"a": {"image": "i", "root": None}}}, "/machines/a/root"),
        ({"machines": {"a": {}}}, "/machines/a"),
        ({"machines": {"a": {"image": "i", "restart": "maybe"}}}, "/machines/a/restart"),
        ({"machines": {"A": {"image": "i"}}}, "/machines"),
        ({"networks": {"n": {"subnet": "10.0.0.0/24", "uplink": "nate"}}}, "/networks/n/uplink"),
    ],
)
def test_an_editor_sees_what_is_wrong(change: dict[str, Any], where: str) -> None:
    errors = list(validator(MANIFEST).iter_errors({**MANIFEST_EXAMPLE, **change}))
    assert [
        "/" + "/".join(map(str, error.instance_path)) if error.instance_path else "" for error in errors
    ] == [where]


def test_variables_may_stand_for_numbers_too() -> None:
    machine = {"image": "${i}", "cpus": "${c}", "memory": "${m}", "nics": ["${n}"], "publish": ["${p}"]}
    validator(MANIFEST).validate({**MANIFEST_EXAMPLE, "machines": {"a": machine}})


@pytest.mark.parametrize("made", [MANIFEST, RECIPE, STEPS], ids=["manifest", "recipe", "steps"])
def test_every_key_is_described(made: dict[str, Any]) -> None:
    parts = [made, *made["$defs"].values()]
    parts = [arm for part in parts for arm in [part, *part.get("anyOf", [])] if "properties" in arm]
    assert parts
    for part in parts:
        for key, value in part["properties"].items():
            assert value.get("description"), key


@pytest.mark.parametrize("document", ["manifest", "recipe", "steps"])
def test_the_command_prints_it(document: str, capsys: pytest.CaptureFixture[str]) -> None:
    schema(document)  # type: ignore[arg-type]
    assert json.loads(capsys.readouterr().out)["$schema"].endswith("2020-12/schema")
