"""What dnsmasq of one network is told: addresses by MAC, names of the system, where other names are asked. Pure.

Every machine's name resolves as `name` and `name.SYSTEM`, to its addresses on this network; nothing that a
guest says of itself gets into the names. Known MACs get their one address for ever, unknown ones get none.
With NAT other names are asked of the host's resolvers, in a fork of the recorder; else they do not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from forkbed.drivers.networks.keeper import Program
from forkbed.drivers.networks.recorder.settings import LOOPBACK, NAMES_PORT
from forkbed.drivers.networks.service_rules import INSIDE

CONFIGURATION = "dnsmasq.conf"
NAMES = "names"
HOSTS = "dhcp-hosts"
PID = "dnsmasq.pid"
_LARGEST_LOG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Lease:
    """One NIC's address and the name of its machine."""

    mac: str
    address: IPv4Address
    name: str


@dataclass(frozen=True, slots=True)
class NameService:
    """What dnsmasq's files depend on.

    Other names are answered by the servers of the resolv.conf `resolvers`, by the recorder if they are `recorded`, by
    nobody else.
    """

    directory: Path
    system_name: str
    subnet: IPv4Network
    gateway: IPv4Address
    mtu: int
    is_way_out: bool
    resolvers: Path | None
    recorded: bool
    user: str
    leases: tuple[Lease, ...]


def program(directory: Path) -> Program:
    """How dnsmasq is run on the files in `directory`."""
    return Program(
        name="dnsmasq",
        command=("dnsmasq", "--keep-in-foreground", "--conf-file="),
        configuration=CONFIGURATION,
        pid=PID,
        keeper_pid="keeper.pid",
        log="dnsmasq.log",
        largest_file_bytes=_LARGEST_LOG_BYTES,
        read_again=frozenset({NAMES, HOSTS}),
        has_read=f"read {directory / HOSTS}",
    )


def render_files(service: NameService) -> dict[str, str]:
    """The files of dnsmasq by name."""
    return {
        CONFIGURATION: _configuration(service),
        NAMES: "".join(
            f"{lease.address} {lease.name}.{service.system_name} {lease.name}\n" for lease in service.leases
        ),
        HOSTS: "".join(f"{lease.mac},{lease.address},{lease.name},infinite\n" for lease in service.leases),
    }


def choose_resolvers(candidates: Sequence[tuple[Path, str]]) -> Path | None:
    """The first of the resolv.conf files (path, content) with a server that another namespace can ask.

    A server on the loopback is the host's own (systemd-resolved lists its upstream servers in another file).
    """
    for path, content in candidates:
        for line in content.splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver" and not words[1].startswith(("127.", "::1")):
                return path
    return None


def _configuration(service: NameService) -> str:
    here, system = service.directory, service.system_name
    lines = [
        f"interface={INSIDE}",
        "except-interface=lo",
        "bind-interfaces",
        f"user={service.user}",
        f"pid-file={here / PID}",
        "log-facility=-",
        "quiet-dhcp",
        # names
        "no-hosts",
        f"addn-hosts={here / NAMES}",
        f"domain={system}",
        f"local=/{system}/",
        "domain-needed",
        "bogus-priv",
        *_elsewhere(service),
        # addresses
        "dhcp-authoritative",
        f"dhcp-range={service.subnet.network_address},static,{service.subnet.netmask},infinite",
        f"dhcp-hostsfile={here / HOSTS}",
        "dhcp-ignore=tag:!known",
        "dhcp-ignore-names",
        "dhcp-ignore-clid",
        "dhcp-no-override",
        "leasefile-ro",
        f"dhcp-option=option:router{f',{service.gateway}' if service.is_way_out else ''}",
        f"dhcp-option=option:mtu,{service.mtu}",
        f"dhcp-option=option:domain-search,{system}",
    ]
    return "\n".join(lines) + "\n"


def _elsewhere(service: NameService) -> list[str]:
    """How names outside the system are answered; IPv6 addresses would lead nowhere.

    The recorder is told who asks, by dnsmasq and not by the guest, and it is told each time.
    """
    if service.recorded:
        to_recorder = f"server={LOOPBACK}#{NAMES_PORT}"
        return ["no-resolv", to_recorder, "strip-subnet", "add-subnet=32", "cache-size=0"]
    if service.resolvers is None:
        return ["no-resolv", "address=/#/"]
    return [f"resolv-file={service.resolvers}", "filter-AAAA"]
