"""`fork`, `discard`, `tree`, `intents`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter

from forkbed.api.client import Client
from forkbed.api.codec import decode
from forkbed.api.contract import ForkResult
from forkbed.cli.branch_view import TREE_HEADINGS, freeze_lines, instant, tree_rows
from forkbed.cli.commands.snapshots import Expires, IfRevision, Message, NoWait, seconds
from forkbed.cli.intent_view import HEADINGS, line, row
from forkbed.cli.invocation import current
from forkbed.cli.output import emit, emit_line, say, table
from forkbed.cli.targets import system_name
from forkbed.cli.waiting import complete
from forkbed.core.operations.records import Operation
from forkbed.engine.branching import ForkOptions, IntentView

_PAGE = 10_000


def fork(
    system: str,
    name: Annotated[str, Parameter(help="What to call the fork.")],
    /,
    *,
    at: Annotated[str, Parameter(help="Fork this snapshot instead of now.")] = "",
    cold: Annotated[bool, Parameter(help="Disks only: the fork's machines boot.")] = False,
    count: Annotated[int, Parameter(help="Make so many, 16 at most, called NAME-1, NAME-2, …")] = 1,
    expires: Expires = None,
    message: Message = "",
    no_wait: NoWait = False,
    if_revision: IfRevision = None,
) -> int:
    """Copy a running system at one instant: memory, disks and network identity, isolated from everything.

    The machines of the fork go on where the original's were, with the same names and addresses; what they try to
    do to the world is written down (`forkbed intents`). The original runs on. A fork is a system like any other,
    and can be forked. Whoever uses it can read the original's secrets in it. Names of forks go to standard output.

    ```
    forkbed fork boss-ops boss-try
    forkbed fork boss-ops boss-try --at before-upgrade --expires 2h --message 'try PostgreSQL 16'
    forkbed fork boss-ops load --count 3 --cold
    ```
    """
    options = ForkOptions(name, at, cold, count, seconds("--expires", expires), message)
    with current().client() as client:
        operation = client.fork(system_name(system), options, if_match=if_revision)
        ended = complete(client, operation, wait=not no_wait)
    if ended is not None:
        _tell_fork(system, ended)
    return 0


def discard(
    name: Annotated[str, Parameter(name="FORK", help="The fork to remove.")], /, *, no_wait: NoWait = False
) -> int:
    """Remove a fork with its data. What other systems stand on stays, and is said.

    ```
    forkbed discard boss-try
    ```
    """
    with current().client() as client:
        ended = complete(client, client.discard(system_name(name)), wait=not no_wait)
    if ended is None:
        return 0
    kept_for = (ended.result or {}).get("kept_for")
    if isinstance(kept_for, list) and kept_for:
        say(f"layers of it are kept for what stands on them: {', '.join(map(str, kept_for))}")
    else:
        say("nothing of it is kept")
    return 0


def tree(system: str | None = None, /) -> None:
    """Draw the lineage: systems, and below each its snapshots and forks, with times, sizes and notes.

    ```
    forkbed tree
    forkbed tree boss-ops
    ```
    """
    with current().client() as client:
        roots = client.tree(None if system is None else system_name(system))
    if not emit(roots):
        table(TREE_HEADINGS, tree_rows(roots), empty="there are no systems; bring one up: forkbed up FILE")


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


def _tell_fork(system: str, operation: Operation) -> None:
    made = decode(ForkResult, operation.result or {})
    for name in made.forks:
        print(name)
    if made.cut_at is not None:
        say(f"{system} as it was at {instant(made.cut_at)}")
    for words in freeze_lines(made.machines, made.skew_s):
        say(f"  {words}")
    for first in made.forks[:1]:
        machine = next((each.name for each in made.machines if each.frozen_s is not None), "MACHINE")
        say("what next:")
        say(f"  forkbed ssh {first}/{machine}")
        say(f"  forkbed intents {first} --follow")
        say(f"  forkbed discard {first}")
