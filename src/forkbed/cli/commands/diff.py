"""`diff`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from forkbed.api.codec import decode
from forkbed.base.errors import Kind, OperationalError
from forkbed.cli.commands.parameters import NoWait
from forkbed.cli.diff_view import Part, print_difference
from forkbed.cli.invocation import current
from forkbed.cli.output import emit, say
from forkbed.cli.targets import system_or_snapshot
from forkbed.cli.waiting import complete, follow, raise_failure
from forkbed.core.diffs.systems import SystemDifference
from forkbed.engine.promoting import DiffOptions

_CONFIGURATION = ("/etc",)
_OVERVIEW = frozenset({Part.DECLARED, Part.PACKAGES, Part.SERVICES, Part.FILES})


def diff(
    left: Annotated[str, Parameter(name="A", help="A system, or SYSTEM@SNAPSHOT.")],
    right: Annotated[
        str, Parameter(name="B", help="One that is related to it: its fork, or a fork of the same.")
    ],
    /,
    *paths: Annotated[str, Parameter(name="PATH", help="Only these paths of the guests and what is below.")],
    base: Annotated[
        bool, Parameter(help="Hold both against what they have in common, so that conflicts show.")
    ] = False,
    files: Annotated[bool, Parameter(help="The files.")] = False,
    packages: Annotated[bool, Parameter(help="The Debian packages.")] = False,
    config: Annotated[
        bool,
        Parameter(
            help="How they are declared, services, and text files (below /etc, unless PATHs are given)."
        ),
    ] = False,
    stat: Annotated[bool, Parameter(help="Numbers only, for each file system.")] = False,
    everything: Annotated[
        bool, Parameter(name="--all", help="Also what always differs: logs, caches, run-time files.")
    ] = False,
    no_wait: NoWait = False,
) -> int:
    """Compare two related systems as they are now: manifests, packages, services and files on their disks.

    Without `--files`, `--packages`, `--config` or `--stat` everything but the texts is shown. Marks: `+` added in B,
    `-` removed, `M` changed. With `--base` a mark for each of the two, and `!` where both changed the same thing
    differently. Both systems run on.

    ```
    forkbed diff boss-ops try-16
    forkbed diff boss-ops try-16 --config /etc/postgresql
    forkbed diff boss-ops try-16 --base --stat
    forkbed diff boss-ops@before-upgrade boss-ops
    ```
    """
    for path in paths:
        if not path.startswith("/"):
            raise OperationalError(Kind.INVALID, path, "is not an absolute path", "such as /etc/hosts")
    options = DiffOptions(
        base=base,
        paths=paths or (_CONFIGURATION if config and not files else ()),
        texts=config,
        everything=everything,
    )
    chosen = {
        *((Part.FILES,) if files else ()),
        *((Part.PACKAGES,) if packages else ()),
        *((Part.DECLARED, Part.SERVICES, Part.TEXTS) if config else ()),
        *((Part.STAT,) if stat else ()),
    }
    with current().client() as client:
        operation = client.diff(system_or_snapshot(left), system_or_snapshot(right), options)
        if no_wait:
            complete(client, operation, wait=False)
            return 0
        ended = follow(client, operation)
    raise_failure(ended)
    if not emit(ended.result):
        found = decode(SystemDifference, ended.result or {})
        if not print_difference(found, frozenset(chosen) or _OVERVIEW):
            say(
                f"{left} and {right}: nothing of that differs"
                if chosen
                else f"{left} and {right} are the same"
            )
    return 0
