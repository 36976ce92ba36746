from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkbed.api.bodies import BundleBody, bundle_body, bundle_of
from forkbed.api.contract import entity_tag, quote_command, revision_of_tag, unquote_command
from forkbed.api.problems import error_of, error_of_status, problem_json
from forkbed.base.errors import Kind, OperationalError
from forkbed.core.systems.bundle import ManifestBundle


def test_a_bundle_survives_the_way() -> None:
    bundle = ManifestBundle("a.yaml", "version: 1\n", {"app/x": b"\x00\xff"}, {"key": b"secret"}, {"n": "1"})
    assert bundle_of(bundle_body(bundle)) == bundle


def test_what_is_not_base64_is_refused() -> None:
    with pytest.raises(OperationalError, match="base64") as caught:
        bundle_of(BundleBody("a.yaml", "", files={"x": "!!"}))
    assert caught.value.kind is Kind.INVALID


@given(st.integers(0, 10**9))
def test_a_revision_is_its_entity_tag(revision: int) -> None:
    assert revision_of_tag(entity_tag(revision)) == revision


def test_a_star_matches_any_revision() -> None:
    assert revision_of_tag(" * ") is None


@pytest.mark.parametrize("tag", ["", "3", '"three"', 'W/"3"', '"', '""', '"²"', '"3", "4"'])
def test_other_tags_are_refused(tag: str) -> None:
    with pytest.raises(OperationalError) as caught:
        revision_of_tag(tag)
    assert caught.value.kind is Kind.INVALID


@given(st.text(max_size=300))
def test_the_typed_command_survives_a_header(command: str) -> None:
    header = quote_command(command.encode("utf-8", "replace").decode())
    header.encode("ascii")
    assert unquote_command(header) == "".join(
        c for c in command.encode("utf-8", "replace").decode() if c.isprintable()
    )


def test_a_problem_document_is_the_error() -> None:
    error = OperationalError(
        Kind.UNSAFE, "machine a/b", "would lose data", "--destroy b", details=("one", "two")
    )
    document = problem_json(error)
    assert document["type"] == "urn:forkbed:problem:unsafe"
    assert document["status"] == 412
    assert error_of(document).as_dict() == error.as_dict()


@pytest.mark.parametrize(
    ("status", "kind"), [(404, Kind.NOT_FOUND), (409, Kind.CONFLICT), (418, Kind.INVALID), (502, Kind.FAULT)]
)
def test_an_answer_without_a_problem_document_has_a_kind(status: int, kind: Kind) -> None:
    assert error_of_status(status, "serve", "said nothing").kind is kind
