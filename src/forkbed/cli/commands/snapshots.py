"""`snapshot`, `snapshots`, `snapshot-delete`, `rollback`, `fold`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from forkbed.api.client import Client
from forkbed.base.units import format_size
from forkbed.cli.branch_view import (
    FREEZE_HEADINGS,
    SNAPSHOT_HEADINGS,
    freeze_lines,
    freeze_rows,
    instant,
    snapshot_row,
)
from forkbed.cli.commands.parameters import Expires, IfRevision, Message, NoWait, seconds
from forkbed.cli.invocation import current
from forkbed.cli.output import emit, say, table
from forkbed.cli.targets import system_name
from forkbed.cli.waiting import complete, finish
from forkbed.engine.branch_options import SnapshotOptions

SnapshotName = Annotated[str, Parameter(help="The snapshot's name; `forkbed snapshots SYSTEM` lists them.")]


def snapshot(
    system: str,
    name: Annotated[str, Parameter(help="What to call it; made of the time if left out.")] = "",
    /,
    *,
    disks_only: Annotated[
        bool, Parameter(help="Without memory: the guests' agents quiesce their file systems.")
    ] = False,
    message: Message = "",
    expires: Expires = None,
    no_wait: NoWait = False,
) -> int:
    """Keep one instant of all machines of a system: their disks, and the memory of those that run.

    The machines go on; they stand still for some milliseconds, together. The snapshot's name goes to standard
    output.

    ```
    forkbed snapshot boss-ops
    forkbed snapshot boss-ops before-upgrade --message 'PostgreSQL 15' --expires 7d
    forkbed snapshot boss-ops nightly --disks-only
    ```
    """
    options = SnapshotOptions(name, disks_only, message, seconds("--expires", expires))
    with current().client() as client:
        ended = complete(client, client.snapshot(system_name(system), options), wait=not no_wait)
        if ended is not None:
            _tell_snapshot(client, system, str((ended.result or {}).get("snapshot", name)))
    return 0


def snapshots(
    system: str,
    /,
    *,
    machines: Annotated[bool, Parameter(help="Also how each machine stood still.")] = False,
) -> None:
    """List a system's snapshots, the oldest first.

    `OWN SIZE` is what deleting the snapshot gives back; `automatic` ones Forkbed made for a fork or before a
    rollback.

    ```
    forkbed snapshots boss-ops
    forkbed snapshots boss-ops --machines
    forkbed snapshots boss-ops --json
    ```
    """
    with current().client() as client:
        found = client.snapshots(system_name(system))
    if emit(found):
        return
    table(
        SNAPSHOT_HEADINGS,
        map(snapshot_row, found),
        empty=f"{system} has no snapshots; take one: forkbed snapshot {system}",
    )
    if machines and found:
        print()
        rows = [row for each in found for row in freeze_rows(each)]
        table(FREEZE_HEADINGS, rows, empty="no machine is part of any")


def snapshot_delete(system: str, name: SnapshotName, /, *, no_wait: NoWait = False) -> int:
    """Delete a snapshot. What forks or other snapshots stand on stays until they go.

    ```
    forkbed snapshot-delete boss-ops before-upgrade
    ```
    """
    with current().client() as client:
        return finish(client, client.snapshot_delete(system_name(system), name), wait=not no_wait)


def rollback(
    system: str,
    name: Annotated[str, Parameter(name="SNAPSHOT", help="The snapshot to go back to.")],
    /,
    *,
    no_wait: NoWait = False,
    if_revision: IfRevision = None,
) -> int:
    """Make a system what it was at a snapshot, its manifest included.

    What that replaces is kept as a snapshot of its own, with memory if it runs, so a rollback can be rolled back.

    ```
    forkbed rollback boss-ops before-upgrade
    ```
    """
    with current().client() as client:
        operation = client.rollback(system_name(system), name, if_match=if_revision)
        ended = complete(client, operation, wait=not no_wait)
    kept = (ended.result or {}).get("kept") if ended is not None else None
    if kept:
        say(f"what it replaced is kept as the snapshot {kept}\n  go back: forkbed rollback {system} {kept}")
    return 0


def fold(system: str, /, *, no_wait: NoWait = False) -> int:
    """Merge layers of a system's disks while it runs, as far as snapshots and forks allow.

    Forkbed does that by itself where chains get long; it makes reading faster and may give back space.

    ```
    forkbed fold boss-ops
    ```
    """
    with current().client() as client:
        return finish(client, client.fold(system_name(system)), wait=not no_wait)


def _tell_snapshot(client: Client, system: str, name: str) -> None:
    print(name)
    for made in client.snapshots(system):
        if made.name == name:
            say(f"{made.kind} snapshot of {instant(made.cut_at)}, {format_size(made.own_bytes)}")
            for line in freeze_lines(made.machines, made.skew_s):
                say(f"  {line}")
    say("what next:")
    say(f"  forkbed fork {system} NAME --at {name}")
    say(f"  forkbed rollback {system} {name}")
