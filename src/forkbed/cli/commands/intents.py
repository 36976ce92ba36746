"""`intents`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter

from forkbed.api.client import Client
from forkbed.cli.intent_view import HEADINGS, line, row
from forkbed.cli.invocation import current
from forkbed.cli.output import emit, emit_line, table
from forkbed.cli.targets import system_name
from forkbed.engine.branching import IntentView

_PAGE = 10_000


def intents(
    name: Annotated[str, Parameter(name="FORK", help="The fork.")],
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], help="Go on with what it tries.")] = False,
    after: Annotated[int, Parameter(help="Only those with a higher number.")] = 0,
    tail: Annotated[int | None, Parameter(help="Only the last so many.")] = None,
) -> None:
    """Show what a fork tried to do to the world: names it asked for, requests, mails, connections.

    Nothing of it left the host. Under `--json` with `--follow`, one line of JSON for each.

    ```
    forkbed intents boss-try
    forkbed intents boss-try --follow
    forkbed intents boss-try --json | jq '.[] | select(.intent.kind == "smtp")'
    ```
    """
    with current().client() as client:
        found = list(_all_intents(client, system_name(name), after))
        shown = found if tail is None else found[max(0, len(found) - tail) :]
        if not follow:
            if not emit(shown):
                table(HEADINGS, map(row, shown), empty=f"{name} has not tried anything")
            return
        for view in shown:
            _print_line(view)
        for view in client.follow_intents(name, after=found[-1].cursor if found else after):
            _print_line(view)


def _all_intents(client: Client, fork: str, after: int) -> Iterator[IntentView]:
    while page := client.intents(fork, after=after, limit=_PAGE):
        yield from page
        after = page[-1].cursor


def _print_line(view: IntentView) -> None:
    if not emit_line(view):
        print(line(view), flush=True)
