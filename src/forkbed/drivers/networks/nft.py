"""Load nftables rules, and see which tables there are, in the calling thread's network namespace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.main import NFTables

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import processes
from forkbed.drivers.networks.filters import remove_table
from forkbed.drivers.networks.records import holds, replace_file

Table = tuple[str, str]
"""Family and name."""

_EVERY_FAMILY = 0
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


@dataclass(frozen=True, slots=True)
class Rules:
    """Commands that put `tables` in place, beginning each with its removal; no two rules have the same table.

    `applied` keeps the commands that were carried out last.
    """

    commands: str
    tables: frozenset[Table]
    applied: Path


def ensure(wanted: Sequence[Rules], *, subject: str) -> bool:
    """Carry out those that are not in place yet, all in one transaction; returns whether there were any."""
    loaded = tables()
    missing = [r for r in wanted if not (holds(r.applied, r.commands) and r.tables <= loaded)]
    if not missing:
        return False
    for rules in missing:
        rules.applied.unlink(
            missing_ok=True
        )  # a crash now must not let the old commands pass for the present
    apply("".join(_needed(rules, loaded) for rules in missing), subject=subject)
    for rules in missing:
        replace_file(rules.applied, rules.commands)
    return True


def _needed(rules: Rules, loaded: set[Table]) -> str:
    """The commands, where tables that are not there are not removed but made; should one be there, that fails.

    When a table was removed, the kernel has `nft` wait at its end until no processor looks at it any more: 15 ms.
    """
    commands = rules.commands
    for family, name in rules.tables - loaded:
        commands = commands.replace(remove_table(family, name), f"create table {family} {name}\n", 1)
    return commands


def apply(commands: str, *, subject: str) -> None:
    """Carry out the commands in one transaction: all of them or none. A FAULT carries nft's own words."""
    processes.run(["nft", "-f", "-"], input=commands.encode(), subject=subject, timeout_s=30.0)


def tables() -> set[Table]:
    """All tables that are loaded. Asked of the kernel directly: `nft` reads every element of every set first."""
    try:
        with NFTables(nfgen_family=_EVERY_FAMILY) as netlink:
            listed = [(m["nfgen_family"], str(m.get_attr("NFTA_TABLE_NAME"))) for m in netlink.get_tables()]
    except (NetlinkError, OSError) as error:
        raise OperationalError(
            Kind.FAULT,
            "nftables",
            f"the kernel does not tell its tables: {error}",
            "`forkbed doctor` shows whether this host can filter",
        ) from error
    return {(_FAMILIES[family], name) for family, name in listed if family in _FAMILIES}
