"""Load nftables rules, and see which tables there are, in the calling thread's network namespace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.main import NFTables

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import processes
from forkbed.drivers.networks.records import holds, replace_file

Table = tuple[str, str]
"""Family and name."""

_EVERY_FAMILY = 0
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


@dataclass(frozen=True, slots=True)
class Rules:
    """Tables as they are to be, each as `table … { … }`, or "" for one that is not to be; none is in two rules.

    `applied` keeps the text that was carried out last.
    """

    wanted: Mapping[Table, str]
    applied: Path

    @property
    def text(self) -> str:
        """All tables, as `applied` keeps them."""
        return "".join(self.wanted.values())

    def are_in_place(self, loaded: Set[Table]) -> bool:
        """Whether nothing has to be done about them."""
        as_wanted = all((table in loaded) == bool(text) for table, text in self.wanted.items())
        return as_wanted and (not self.text or holds(self.applied, self.text))


def ensure(wanted: Sequence[Rules], *, subject: str) -> bool:
    """Carry out those that are not in place yet, all in one transaction; returns whether there were any."""
    loaded = tables()
    missing = [rules for rules in wanted if not rules.are_in_place(loaded)]
    if not missing:
        return False
    for rules in missing:
        rules.applied.unlink(missing_ok=True)  # a crash now must not let the old text pass for the present
    commands = (_put(table, text, loaded) for rules in missing for table, text in rules.wanted.items())
    apply("".join(commands), subject=subject)
    for rules in missing:
        replace_file(rules.applied, rules.text)
    return True


def remove_table(table: Table) -> str:
    """The commands that remove a table, whether or not it is there."""
    family, name = table
    return f"table {family} {name}\ndelete table {family} {name}\n"


def _put(table: Table, text: str, loaded: Set[Table]) -> str:
    """The commands that put a table in the place of what is loaded.

    When a table was removed, the kernel has `nft` wait at its end until no processor looks at it any more: 15 ms. So
    one that is not there is not removed but made; should it be there after all, that fails.
    """
    if table in loaded:
        return remove_table(table) + text
    family, name = table
    return f"create table {family} {name}\n{text}" if text else ""


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
