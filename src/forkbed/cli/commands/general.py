"""`gc`, `version`, `completion`."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from forkbed import __version__
from forkbed.base.errors import Kind, OperationalError
from forkbed.base.units import format_size
from forkbed.cli.invocation import current
from forkbed.cli.output import emit, say, table
from forkbed.cli.waiting import follow, raise_failure


def gc(
    *,
    dry_run: Annotated[bool, Parameter(help="Only tell what would be removed.")] = False,
) -> None:
    """Remove what bears this installation's id and belongs to no system.

    ```
    forkbed gc --dry-run
    ```
    """
    with current().client() as client:
        report = client.garbage(dry_run=dry_run)
        if report.operation is not None:
            raise_failure(follow(client, report.operation))
    if emit(report):
        return
    rows = [
        (item.kind, item.name, format_size(item.size_bytes) if item.size_bytes else "", item.reason)
        for item in report.items
    ]
    table(("KIND", "NAME", "SIZE", "WHY"), rows, empty="there is nothing to remove")
    if rows:
        say("would be removed" if dry_run else "removed")


def version() -> None:
    """Print the versions of this command and, if one answers, of the server.

    ```
    forkbed version
    forkbed version --json
    ```
    """
    server: dict[str, object] | None = None
    try:
        with current().client() as client:
            server = dict(client.about())
    except OperationalError as error:
        if error.kind is not Kind.UNREACHABLE:
            raise
    if emit({"client": __version__, "server": server}):
        return
    print(f"forkbed {__version__}")
    if server is None:
        say(f"no server answers at {current().socket_path}")
        return
    for name, value in _flat("server", server):
        print(f"{name}: {value}")


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the script that makes a shell complete commands, options and names of systems.

    ```
    forkbed completion bash >/etc/bash_completion.d/forkbed
    forkbed completion zsh >"${fpath[1]}/_forkbed"
    forkbed completion fish >~/.config/fish/completions/forkbed.fish
    ```
    """
    from forkbed.cli.completing import SCRIPTS

    print(SCRIPTS[shell], end="")


def _flat(name: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _flat(f"{name} {key}", item)]
    return [(name, value)]
