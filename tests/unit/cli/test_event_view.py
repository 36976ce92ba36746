"""How events read: one line, of a failure only what failed and why."""

from __future__ import annotations

from forkbed.base.errors import Kind, OperationalError
from forkbed.cli.event_view import sentence
from forkbed.core.operations.records import Event

ERROR = OperationalError(
    Kind.FAULT, "machine boss", "is not ready", "see the logs", details=("one\n\x1b[6n", "two")
)


def line(kind: str, attributes: dict[str, object]) -> str:
    return sentence(Event(1, 0.0, kind, "boss-ops", "boss", "o1", attributes))


def test_a_failed_step_is_told_in_one_short_line() -> None:
    text = line("step.failed", {"key": "ready boss", **ERROR.as_dict()})
    assert "key=ready boss" in text
    assert "machine boss: is not ready" in text
    assert "details" not in text
    assert "two" not in text


def test_a_failed_operation_too() -> None:
    text = line("operation.failed", {"kind": "up", "subject": "boss-ops", "error": ERROR.as_dict()})
    assert "kind=up" in text
    assert "machine boss: is not ready" in text
    assert "{" not in text


def test_others_show_their_attributes() -> None:
    assert "detail=reset" in line("machine.reset", {"detail": "reset", "host": ""})
