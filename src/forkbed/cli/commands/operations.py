"""`operations list|show|cancel` and `events`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from cyclopts import App, Parameter

from forkbed.api.client import Client
from forkbed.base.units import format_duration
from forkbed.cli.event_view import sentence
from forkbed.cli.invocation import current
from forkbed.cli.output import emit, emit_line, printable, say, state, styled, table, when
from forkbed.cli.waiting import follow, raise_failure
from forkbed.core.operations.records import Event, Operation
from forkbed.engine.requests import OperationDetail

app = App(name="operations", help="List, show or cancel operations.")
System = Annotated[str | None, Parameter(help="Only what concerns this system.")]

_PAGE = 10_000


@app.default
@app.command(name="list")
def list_operations(
    *,
    system: System = None,
    active: Annotated[bool, Parameter(help="Only those that have not ended.")] = False,
    limit: Annotated[int, Parameter(help="At most so many.")] = 20,
) -> None:
    """List operations, the newest first.

    ```
    forkbed operations
    forkbed operations list --active --system boss-ops
    ```
    """
    with current().client() as client:
        found = client.operations(system=system, active_only=active, limit=limit)
    if emit(found):
        return
    rows = [
        (
            item.id,
            item.kind,
            item.subject,
            state(item.status),
            when(item.created_at),
            _took(item),
            item.requester.account,
        )
        for item in found
    ]
    headings = ("OPERATION", "KIND", "SUBJECT", "STATUS", "CREATED", "TOOK", "BY")
    table(headings, rows, empty="there are no operations")


@app.command
def show(
    operation: str,
    /,
    *,
    follow_on: Annotated[
        bool, Parameter(name="--follow", help="Go on until it has ended; fails as it does.")
    ] = False,
) -> None:
    """Show what was asked, by whom, and each step on the host with its outcome.

    ```
    forkbed operations show 8kq2vx
    forkbed operations show 8kq2vx --follow
    ```
    """
    with current().client() as client:
        detail = client.operation(operation)
        if follow_on:
            follow(client, detail.operation)
            detail = client.operation(operation)
    if not emit(detail):
        _print_detail(detail)
    if follow_on:
        raise_failure(detail.operation)


@app.command
def cancel(operation: str, /) -> None:
    """Ask an operation to stop at the next point where stopping harms nothing.

    ```
    forkbed operations cancel 8kq2vx
    ```
    """
    with current().client() as client:
        cancelled = client.cancel(operation)
    if not emit(cancelled):
        say(f"operation {cancelled.id}: {cancelled.status}")


def events(
    *,
    system: System = None,
    follow: Annotated[bool, Parameter(help="Go on with what happens.")] = False,
    after: Annotated[int, Parameter(help="Only events with a higher number.")] = 0,
    tail: Annotated[int | None, Parameter(help="Only the last so many.")] = None,
) -> None:
    """Show what happened, oldest first. Under `--json` with `--follow`, one line of JSON for each event.

    ```
    forkbed events --tail 20
    forkbed events --system boss-ops --follow
    ```
    """
    with current().client() as client:
        found = list(_all_events(client, after, system))
        shown = found if tail is None else found[max(0, len(found) - tail) :]
        if not follow:
            if not emit(shown):
                for event in shown:
                    print(sentence(event))
            return
        for event in shown:
            if not emit_line(event):
                print(sentence(event), flush=True)
        last = found[-1].sequence if found else after
        for event in client.follow_events(after=last, system=system):
            if not emit_line(event):
                print(sentence(event), flush=True)


def _all_events(client: Client, after: int, system: str | None) -> Iterator[Event]:
    while page := client.events(after=after, system=system, limit=_PAGE):
        yield from page
        after = page[-1].sequence


def _print_detail(detail: OperationDetail) -> None:
    operation = detail.operation
    requester = operation.requester
    print(f"{styled(operation.id, 'bold')}  {operation.kind} {operation.subject}  {state(operation.status)}")
    print(f"asked by {requester.account} (uid {requester.uid}) at {when(operation.created_at)}")
    print(f"  {requester.command}")
    if operation.error:
        print(f"{styled('failed:', 'red')} {operation.error.get('subject')}: {operation.error.get('brief')}")
    rows = [
        (
            str(entry.sequence),
            entry.subject,
            entry.verb,
            state(entry.status),
            "" if entry.ended_at is None else format_duration(entry.ended_at - entry.started_at),
            printable(entry.message),
        )
        for entry in detail.journal
    ]
    table(("#", "SUBJECT", "STEP", "OUTCOME", "TOOK", "MESSAGE"), rows, empty="no step was done")


def _took(operation: Operation) -> str:
    if operation.started_at is None or operation.ended_at is None:
        return ""
    return format_duration(operation.ended_at - operation.started_at)
