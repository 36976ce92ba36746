"""`tree`."""

from __future__ import annotations

from forkbed.cli.branch_view import TREE_HEADINGS, tree_rows
from forkbed.cli.invocation import current
from forkbed.cli.output import emit, table
from forkbed.cli.targets import system_name


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
