"""The sentence that tells of an event."""

from __future__ import annotations

from forkbed.cli.output import printable, styled, when
from forkbed.core.operations.records import Event


def sentence(event: Event) -> str:
    """One line: when, what, about what, and its attributes."""
    subject = f"{event.system}/{event.machine}" if event.machine else event.system
    attributes = " ".join(
        f"{name}={printable(str(value))}"
        for name, value in (event.attributes or {}).items()
        if value not in ("", None)
    )
    operation = f"[{event.operation_id}]" if event.operation_id else ""
    words = (when(event.at), styled(event.kind, _colour(event.kind)), subject, attributes, operation)
    return "  ".join(word for word in words if word)


def _colour(kind: str) -> str:
    last = kind.rpartition(".")[2]
    return {"failed": "red", "crashed": "red", "succeeded": "green", "started": "cyan"}.get(last, "")
