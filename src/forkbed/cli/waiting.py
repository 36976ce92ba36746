"""Wait for an operation, telling on standard error how it goes, and make its end this command's end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol, Self

from forkbed.api.client import Client
from forkbed.base.errors import Kind, OperationalError
from forkbed.base.units import format_duration
from forkbed.cli.invocation import current
from forkbed.cli.output import emit, say
from forkbed.core.operations.records import Operation, OperationStatus
from forkbed.engine.requests import OperationDetail


class Display(Protocol):
    """How progress is shown; a context manager around the waiting."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def show(self, detail: OperationDetail) -> None:
        """Take in a change; its journal holds the steps that changed."""


def finish(client: Client, operation: Operation, *, wait: bool = True) -> int:
    """Wait for the operation (unless told not to) and print it under --json. Raises what it failed of."""
    complete(client, operation, wait=wait)
    return 0


def complete(
    client: Client,
    operation: Operation,
    *,
    wait: bool = True,
    on_failure: Callable[[Operation], None] | None = None,
) -> Operation | None:
    """`finish`, for a command with more to tell people: the ended operation, or None if there is nothing to tell.

    `on_failure` tells people more about an operation that did not succeed, before its error is raised.
    """
    if not wait:
        if not emit(operation):
            print(operation.id)
            say(
                f"started operation {operation.id}; follow it: forkbed operations show {operation.id} --follow"
            )
        return None
    ended = follow(client, operation)
    if not emit(ended) and on_failure is not None and ended.status is not OperationStatus.SUCCEEDED:
        on_failure(ended)
    raise_failure(ended)
    if current().json:
        return None
    took = (ended.ended_at or 0.0) - (ended.started_at or ended.created_at)
    say(f"{ended.kind} {ended.subject}: done in {format_duration(max(0.0, took))}")
    return ended


def follow(client: Client, operation: Operation) -> Operation:
    """Show the operation's progress until it has ended; returns it as it is then.

    Ctrl-C ends the waiting only: what to do then is said.
    """
    if operation.status.ended:
        return operation
    try:
        with _display(operation) as display:
            for detail in client.follow_operation(operation.id, on_gap=_tell_gap):
                operation = detail.operation
                display.show(detail)
    except KeyboardInterrupt:
        say(
            f"operation {operation.id} goes on without this command\n"
            f"  follow it: forkbed operations show {operation.id} --follow\n"
            f"  cancel it: forkbed operations cancel {operation.id}"
        )
        raise
    return operation


def raise_failure(operation: Operation) -> None:
    """Raise what an operation failed of, or that it was cancelled."""
    if operation.status is OperationStatus.FAILED:
        if operation.error is not None:
            raise OperationalError.from_dict(operation.error)
        raise OperationalError(Kind.FAULT, f"operation {operation.id}", "failed without saying why")
    if operation.status is OperationStatus.CANCELLED:
        raise OperationalError(
            Kind.CONFLICT,
            f"operation {operation.id}",
            "it was cancelled",
            "run the command again to go on from where it stopped",
        )


def _display(operation: Operation) -> Display:
    if sys.stderr.isatty() and not current().json:
        from forkbed.cli.live import LiveDisplay

        return LiveDisplay(operation)
    if current().json:
        return _Silence()
    from forkbed.cli.plain_progress import PlainDisplay

    return PlainDisplay()


class _Silence:
    """Under --json standard error is for the one document that tells of a failure."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing to put back."""

    def show(self, detail: OperationDetail) -> None:
        """Nobody reads along."""


def _tell_gap(_error: OperationalError) -> None:
    say("the server does not answer; waiting for it to come back")
