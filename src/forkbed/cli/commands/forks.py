"""`fork`, `discard`.

What tells of the outcome is imported once it is under way, which should not wait for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from forkbed.cli.commands.parameters import Expires, IfRevision, Message, NoWait, seconds
from forkbed.cli.invocation import current
from forkbed.cli.output import say
from forkbed.cli.targets import system_name
from forkbed.engine.branch_options import ForkOptions

if TYPE_CHECKING:
    from forkbed.core.operations.records import Operation


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

        from forkbed.cli.waiting import complete

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
        operation = client.discard(system_name(name))

        from forkbed.cli.waiting import complete

        ended = complete(client, operation, wait=not no_wait)
    if ended is None:
        return 0
    kept_for = (ended.result or {}).get("kept_for")
    if isinstance(kept_for, list) and kept_for:
        say(f"layers of it are kept for what stands on them: {', '.join(map(str, kept_for))}")
    else:
        say("nothing of it is kept")
    return 0


def _tell_fork(system: str, operation: Operation) -> None:
    from forkbed.api.bodies import ForkResult
    from forkbed.api.codec import decode
    from forkbed.cli.branch_view import freeze_lines, instant

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
