"""The sentence that tells of an event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from forkbed.cli.output import printable, styled, when
from forkbed.core.operations.records import Event

_OF_AN_ERROR = frozenset({"kind", "subject", "brief", "remedy", "details"})


def sentence(event: Event) -> str:
    """One line: when, what, about what, and its attributes."""
    subject = f"{event.system}/{event.machine}" if event.machine else event.system
    attributes = " ".join(_words(event.attributes or {}))
    operation = f"[{event.operation_id}]" if event.operation_id else ""
    words = (when(event.at), styled(event.kind, _colour(event.kind)), subject, attributes, operation)
    return "  ".join(word for word in words if word)


def _words(attributes: Mapping[str, object]) -> Iterator[str]:
    """`name=value` for each; of an error only what failed and why, since `operations show` has the rest."""
    error = attributes.get("error", attributes)
    is_error = isinstance(error, dict) and "brief" in error
    for name, value in attributes.items():
        if name == "error" or (is_error and error is attributes and name in _OF_AN_ERROR):
            continue
        if value not in ("", None):
            yield f"{name}={printable(str(value))}"
    if is_error and isinstance(error, dict):
        yield f": {printable(str(error['subject']))}: {printable(str(error['brief']))}"


def _colour(kind: str) -> str:
    last = kind.rpartition(".")[2]
    return {"failed": "red", "crashed": "red", "succeeded": "green", "started": "cyan"}.get(last, "")
