"""`plan`, `up`, `down`, `list`, `show`, `history`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from forkbed.base.units import format_size
from forkbed.cli.branch_view import fork_mark
from forkbed.cli.invocation import current
from forkbed.cli.output import emit, say, state, styled, table, when
from forkbed.cli.targets import system_name
from forkbed.cli.waiting import finish
from forkbed.engine.requests import MachineDetail, SystemDetail, UpOptions

File = Annotated[str, Parameter(help="The manifest; `-` reads standard input.", allow_leading_hyphen=True)]
Variables = Annotated[
    tuple[str, ...],
    Parameter(name="--set", help="Give a variable of the manifest a value: NAME=VALUE."),
]
Restart = Annotated[bool, Parameter(help="Restart machines where a change needs it.")]
Destroy = Annotated[
    tuple[str, ...],
    Parameter(help="Allow the data of this machine, or volume as MACHINE/VOLUME, to be lost."),
]
NoWait = Annotated[bool, Parameter(name="--no-wait", help="Only start the operation and print its id.")]
IfRevision = Annotated[
    int | None, Parameter(name="--if-revision", help="Only if the system is at this revision.")
]


def plan(
    file: File, /, *, variables: Variables = (), restart: Restart = False, destroy: Destroy = ()
) -> None:
    """Show what `up` would do, like a diff. Nothing is changed.

    Lines with `+` are made, with `~` changed, with `-` removed. What needs `--restart` or `--destroy` is said.

    ```
    forkbed plan examples/boss-ops/system.yaml
    forkbed plan system.yaml --set memory=512MiB --json
    ```
    """
    from forkbed.cli.bundling import read_bundle

    bundle = read_bundle(file, variables)
    with current().client() as client:
        found = client.plan(bundle, UpOptions(restart, frozenset(destroy)))
    if not emit(found):
        from forkbed.cli.plan_view import print_plan

        print_plan(found)


def up(
    file: File,
    /,
    *,
    variables: Variables = (),
    restart: Restart = False,
    destroy: Destroy = (),
    no_wait: NoWait = False,
    if_revision: IfRevision = None,
) -> int:
    """Bring a system up as its manifest declares, and wait until it is ready.

    Only what differs is changed. A change that needs a restart of a machine waits for its next start unless
    `--restart` is given; one that loses data is refused without `--destroy`. Ctrl-C ends the waiting, not the
    operation.

    ```
    forkbed up examples/boss-ops/system.yaml
    forkbed up system.yaml --set memory=512MiB --restart
    forkbed up system.yaml --destroy boss/data
    ```
    """
    from forkbed.cli.bundling import read_bundle
    from forkbed.cli.plan_view import announce

    bundle = read_bundle(file, variables)
    options = UpOptions(restart, frozenset(destroy))
    with current().client() as client:
        announce(client.plan(bundle, options), restart=restart)
        operation = client.up(bundle, options, if_match=if_revision)
        return finish(client, operation, wait=not no_wait)


def down(
    system: str,
    /,
    *,
    delete: Annotated[bool, Parameter(help="Remove the system with its data.")] = False,
    no_wait: NoWait = False,
    if_revision: IfRevision = None,
) -> int:
    """Shut a system's machines down; its disks stay, unless with `--delete`.

    ```
    forkbed down boss-ops
    forkbed down boss-ops --delete
    ```
    """
    with current().client() as client:
        operation = client.down(system_name(system), delete=delete, if_match=if_revision)
        return finish(client, operation, wait=not no_wait)


def list_systems() -> None:
    """List the systems of this installation; of forks also what they were cut from, and when they expire.

    ```
    forkbed list
    forkbed list --json
    ```
    """
    with current().client() as client:
        found = client.systems()
    if emit(found):
        return
    # Two columns that are empty where nobody forks.
    of_forks = any(item.fork_of or item.expires_at for item in found)
    rows = [
        (
            item.name,
            state(item.state),
            f"{item.machines_ready}/{item.machines_total}",
            str(item.revision),
            *((item.fork_of, when(item.expires_at)) if of_forks else ()),
            when(item.changed_at),
            item.operation_id,
        )
        for item in found
    ]
    origin = ("FORK OF", "EXPIRES") if of_forks else ()
    headings = ("SYSTEM", "STATE", "READY", "REVISION", *origin, "CHANGED", "OPERATION")
    table(headings, rows, empty="there are no systems; bring one up: forkbed up FILE")


def show(
    system: str,
    /,
    *,
    revision: Annotated[int | None, Parameter(help="Print the manifest of this revision.")] = None,
) -> None:
    """Show where a system is, why it is there, and what happened to it.

    With `--revision` the manifest of that revision goes to standard output.

    ```
    forkbed show boss-ops
    forkbed show boss-ops --revision 2 >system.yaml
    ```
    """
    with current().client() as client:
        detail = client.system(system_name(system), revision=revision)
    if emit(detail):
        return
    if revision is not None:
        print(detail.manifest, end="" if detail.manifest.endswith("\n") else "\n")
        return
    _print_detail(detail)


def history(system: str, /) -> None:
    """List every accepted manifest of a system, who accepted it, and what it changed.

    ```
    forkbed history boss-ops
    forkbed show boss-ops --revision 1
    ```
    """
    with current().client() as client:
        found = client.history(system_name(system))
    if emit(found):
        return
    for item in found:
        print(
            f"{styled(f'revision {item.number}', 'bold')}  {when(item.accepted_at)}  {item.requester.account}  "
            f"{styled(item.requester.command, 'dim')}"
        )
        for change in item.changes:
            print(f"  {change}")
    if not found:
        say("there are no revisions")


def _print_detail(detail: SystemDetail) -> None:
    summary = detail.summary
    labels = "".join(f"  {name}={value}" for name, value in sorted((summary.labels or {}).items()))
    print(f"{styled(summary.name, 'bold')}  {state(summary.state)}  revision {summary.revision}{labels}")
    if summary.fork_of:
        print(fork_mark(summary))
    if summary.operation_id:
        print(f"operation {summary.operation_id} is under way")
    print()
    headings = ("MACHINE", "STATE", "READY", "ADDRESSES", "PUBLISHED", "CPUS", "MEMORY", "IMAGE", "HOST")
    table(headings, [_machine_row(machine) for machine in detail.machines], empty="it has no machines")
    print()
    rows = [
        (item.name, item.subnet, item.uplink, item.gateway, item.bridge, "yes" if item.healthy else "no")
        for item in detail.networks
    ]
    table(("NETWORK", "SUBNET", "UPLINK", "GATEWAY", "BRIDGE", "HEALTHY"), rows, empty="it has no networks")
    for machine in detail.machines:
        if machine.restart_pending:
            say(
                f"{machine.name}: a change waits for a restart: forkbed restart {summary.name}/{machine.name}"
            )
    if detail.trail:
        print(f"\n{styled('WHY', 'bold')}")
    for line in detail.trail:
        print(f"{when(line.at)}  {line.text}")


def _machine_row(machine: MachineDetail) -> tuple[str, ...]:
    power = machine.power if machine.power == machine.wanted else f"{machine.power} (wanted {machine.wanted})"
    return (
        machine.name,
        state(power),
        "yes" if machine.ready else "no",
        ", ".join(address for _, address, _ in machine.addresses),
        ", ".join(machine.published),
        str(machine.cpus),
        format_size(machine.memory_bytes),
        f"{machine.image} ({machine.image_id[:12]})",
        machine.host,
    )
