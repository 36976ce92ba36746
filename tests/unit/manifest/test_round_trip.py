"""What a manifest declares is what comes out, and nothing but `ManifestInvalid` comes out of anything else."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forkbed.config.local_files import local_files
from forkbed.config.manifest import parse_manifest
from forkbed.config.problems import ManifestInvalid
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.core.systems.spec import SystemSpec
from tests.unit.manifest.specs import SECRETS_KEY, systems

SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

YAML_PIECES = st.sampled_from(
    [
        "version: 1\n", "system: x\n", "machines:\n", "networks:\n", "  a:\n", "    image: x\n", "    nics: [", "]",
        "{", "}", "- ", ": ", "\n", "&a ", "*a ", "<<: ", "!t ", "'", '"', "|\n", ">-\n", "#", "?", "---\n", "...\n",
        "%YAML 1.2\n", "\t", "${x}", "$${", "~", "on", "1:30", "010", "é", "\x85", "\ufeff", "\x00", "\ud800", "\r\n",
        "    volumes: {d: {size: 1GiB}}\n", "variables: {x: }\n", "    files: [{path: /x}]\n", "  subnet: 10.0.0.0/8\n",
    ]
)  # fmt: skip


def check_places(error: ManifestInvalid, text: str) -> None:
    """Every problem has a place that is in the file."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert error.problems
    for problem in error.problems:
        assert 1 <= problem.line <= len(lines), problem
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1, problem
        assert problem.wrong


@SLOW
@given(systems())
def test_what_is_declared_comes_out(case: tuple[SystemSpec, ManifestBundle]) -> None:
    spec, bundle = case
    images = {"debian:dev": 1024**2, "micro:dev": 1024**2}
    parsed = parse_manifest(bundle, images=images, secrets_key=SECRETS_KEY)
    assert parsed.spec == spec
    assert parsed.secrets == bundle.secrets
    assert set(parsed.files) == {file.content_hash for machine in spec.machines for file in machine.files}
    wanted = local_files(bundle.text, bundle.file_name)
    assert (wanted.files, wanted.secrets) == (frozenset(), frozenset(bundle.secrets))


@SLOW
@given(systems(), st.data())
def test_a_damaged_manifest_is_refused_at_places_in_the_file(
    case: tuple[SystemSpec, ManifestBundle], data: st.DataObject
) -> None:
    text = case[1].text
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(YAML_PIECES | st.just("")) + text[end:]
    try:
        parse_manifest(ManifestBundle("m.yaml", text, secrets=case[1].secrets))
    except ManifestInvalid as error:
        check_places(error, text)


@settings(max_examples=300, deadline=None)
@given(st.lists(YAML_PIECES | st.text(max_size=3), max_size=30).map("".join))
def test_any_text_is_refused_or_read(text: str) -> None:
    with pytest.raises(ManifestInvalid) as caught:  # no such text declares a machine with everything it needs
        parse_manifest(ManifestBundle("m.yaml", text))
    check_places(caught.value, text)
    try:
        local_files(text + "\n# source", "m.yaml")
    except ManifestInvalid as error:
        check_places(error, text + "\n# source")
