"""Interfaces, addresses and routes of the network namespace that the calling thread is in.

Every `ensure_…` answers whether it changed anything, and touches nothing that is as wanted.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from socket import AF_INET
from typing import Any, Self

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from forkbed.base.errors import Kind, OperationalError

_UP = 1
_MAIN_TABLE, _LOCAL, _SCOPE_LINK, _SCOPE_HOST = 254, 2, 253, 254
_CARRIER_TIMEOUT_S = 2.0  # the kernel may take its time, up to a second, to notice
_POLL_S = 0.002
_SYSCTLS = Path("/proc/sys/net")


@dataclass(frozen=True, slots=True)
class Link:
    """One interface. `peer_index` is the index of a veth's other end, in its own namespace."""

    index: int
    name: str
    kind: str  # "bridge", "veth", "tun", …; "" for hardware and the loopback
    master_index: int
    is_up: bool
    has_carrier: bool
    mtu: int
    mac: str
    peer_index: int


class Links:
    """A netlink conversation with the namespace of the thread that opens it."""

    def __init__(self) -> None:
        self._netlink = IPRoute()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._netlink.close()

    def all(self) -> dict[str, Link]:
        """Every interface by name."""
        found = (_parse(message) for message in self._netlink.get_links())
        return {link.name: link for link in found}

    def find(self, name: str) -> Link | None:
        """The interface of that name."""
        try:
            (message,) = self._netlink.link("get", ifname=name)
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise _translate(error, name, "look at it") from error
        return _parse(message)

    def addresses(self) -> set[IPv4Address]:
        """Every IPv4 address of the namespace."""
        messages = self._netlink.get_addr(family=AF_INET)
        return {IPv4Address(_local_address(message)) for message in messages}

    def ensure_bridge(self, name: str, mtu: int) -> bool:
        """Make a bridge without spanning tree and multicast snooping: it only forwards."""
        found = self.find(name)
        if found is not None and found.kind != "bridge":
            raise OperationalError(
                Kind.CONFLICT, f"interface {name}", f"is no bridge but {found.kind or 'hardware'}"
            )
        if found is None:
            self._do(
                name,
                "make the bridge",
                lambda: self._netlink.link(
                    "add",
                    ifname=name,
                    kind="bridge",
                    mtu=mtu,
                    br_stp_state=0,
                    br_forward_delay=0,
                    br_mcast_snooping=0,
                ),
            )
        silenced = ensure_no_ipv6(name)
        return self.ensure_up(name, mtu=mtu) or silenced or found is None

    def ensure_veth(self, name: str, peer: str, namespace: Path, peer_index: int | None, mtu: int) -> bool:
        """Make a veth whose other end is `peer` in `namespace`.

        `peer_index` is what that namespace has under the name now: an end that leads elsewhere is replaced.
        """
        found = self.find(name)
        if found is not None and (peer_index is None or found.peer_index != peer_index):
            self.ensure_absent(name)
            found = None
        if found is not None:
            return False
        self._do(
            name,
            "make the veth",
            lambda: self._netlink.link(
                "add",
                ifname=name,
                kind="veth",
                mtu=mtu,
                peer={"ifname": peer, "mtu": mtu, "net_ns_fd": str(namespace)},
            ),
        )
        ensure_no_ipv6(name)
        return True

    def ensure_up(self, name: str, *, mtu: int | None = None, mac: str | None = None) -> bool:
        """Set MTU and MAC where given, and bring the interface up."""
        link = self._need(name)
        wanted: dict[str, Any] = {}
        if mtu is not None and link.mtu != mtu:
            wanted["mtu"] = mtu
        if mac is not None and link.mac != mac:
            wanted["address"] = mac
        if not link.is_up:
            wanted["state"] = "up"
        if wanted:
            self._do(name, "bring it up", lambda: self._netlink.link("set", index=link.index, **wanted))
        return bool(wanted)

    def ensure_master(self, name: str, bridge: str) -> bool:
        """Join the interface to the bridge."""
        link, master = self._need(name), self._need(bridge)
        if link.master_index == master.index:
            return False
        self._do(
            name,
            f"join it to {bridge}",
            lambda: self._netlink.link("set", index=link.index, master=master.index),
        )
        return True

    def await_carrier(self, *names: str) -> None:
        """Wait until the kernel thinks these plugged in, or for 2 s: before, they forward nothing.

        What is sent there meanwhile is lost.
        """
        deadline = time.monotonic() + _CARRIER_TIMEOUT_S
        while time.monotonic() < deadline:
            found = [self.find(name) for name in names]
            if all(link is not None and link.has_carrier for link in found):
                return
            time.sleep(_POLL_S)

    def ensure_absent(self, name: str) -> bool:
        """Remove the interface, a veth with both ends."""
        link = self.find(name)
        if link is None:
            return False
        try:
            self._netlink.link("del", index=link.index)
        except NetlinkError as error:
            if self.find(name) is not None:  # else its other end's namespace took it along just now
                raise _translate(error, name, "remove it") from error
        return True

    def ensure_only_address(self, name: str, address: IPv4Interface) -> bool:
        """Give the interface this IPv4 address and no other."""
        link = self._need(name)
        present = {
            (IPv4Address(_local_address(message)), int(message["prefixlen"]))
            for message in self._netlink.get_addr(family=AF_INET, index=link.index)
        }
        wanted = (address.ip, address.network.prefixlen)
        if present == {wanted}:
            return False
        for old, prefix_length in present - {wanted}:
            self._address("del", link, old, prefix_length)
        if wanted not in present:
            self._address("add", link, *wanted)
        return True

    def ensure_default_route(self, gateway: IPv4Address) -> bool:
        """Send what is for elsewhere to `gateway`."""
        for route in self._netlink.get_default_routes(family=AF_INET):
            if route.get_attr("RTA_GATEWAY") == str(gateway):
                return False
        self._do(
            "the default route",
            f"set it to {gateway}",
            lambda: self._netlink.route("replace", dst="default", gateway=str(gateway)),
        )
        return True

    def ensure_neighbours(self, name: str, addresses: Collection[IPv4Address]) -> bool:
        """Reach these addresses on the interface, and no others one by one."""
        link = self._need(name)
        wanted = {str(address) for address in addresses}
        present = {
            str(route.get_attr("RTA_DST"))
            for route in self._netlink.get_routes(family=AF_INET, table=_MAIN_TABLE, oif=link.index)
            if route["dst_len"] == 32
        }
        for action, changed in (("del", present - wanted), ("add", wanted - present)):
            for address in sorted(changed):
                self._route(action, dst=f"{address}/32", oif=link.index, scope=_SCOPE_LINK)
        return present != wanted

    def ensure_everything_local(self, *, wanted: bool) -> bool:
        """Take all addresses for the namespace's own that no other route leads to, or only its own ones."""
        routes = self._netlink.get_routes(family=AF_INET, table=_MAIN_TABLE, type=_LOCAL)
        if any(route["dst_len"] == 0 for route in routes) is wanted:
            return False
        action = "add" if wanted else "del"
        self._route(action, dst="0.0.0.0/0", oif=self._need("lo").index, type="local", scope=_SCOPE_HOST)
        return True

    def _route(self, action: str, **route: Any) -> None:
        self._do(
            f"the route to {route['dst']}",
            action,
            lambda: self._netlink.route(action, table=_MAIN_TABLE, **route),
        )

    def _address(self, action: str, link: Link, address: IPv4Address, prefix_length: int) -> None:
        self._do(
            link.name,
            f"{action} address {address}",
            lambda: self._netlink.addr(
                action, index=link.index, address=str(address), prefixlen=prefix_length
            ),
        )

    def _need(self, name: str) -> Link:
        link = self.find(name)
        if link is None:
            raise OperationalError(
                Kind.FAULT, f"interface {name}", "was removed by somebody else just now", "try again"
            )
        return link

    def _do(self, name: str, purpose: str, action: Any) -> None:
        try:
            action()
        except NetlinkError as error:
            raise _translate(error, name, purpose) from error


def ensure_no_ipv6(interface: str) -> bool:
    """Keep the kernel from giving the interface IPv6 addresses."""
    return ensure_sysctl(f"ipv6/conf/{interface}/disable_ipv6", "1")


def ensure_sysctl(key: str, value: str) -> bool:
    """Set a network sysctl such as `ipv4/ip_forward`; one that the kernel does not have is as good as set."""
    path = _SYSCTLS / key
    try:
        if path.read_text().split() == value.split():
            return False
        path.write_text(value)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OperationalError(
            Kind.FAULT,
            f"sysctl net/{key}",
            f"cannot be set to {value}: {error.strerror}",
            "in a container /proc/sys must be writable",
        ) from error
    return True


def read_sysctl(key: str) -> str:
    """The value of a network sysctl; empty if the kernel does not have it."""
    try:
        return (_SYSCTLS / key).read_text().strip()
    except FileNotFoundError:
        return ""


def _parse(message: Any) -> Link:
    information = message.get_attr("IFLA_LINKINFO")
    flags = int(message["flags"])
    return Link(
        index=int(message["index"]),
        name=str(message.get_attr("IFLA_IFNAME")),
        kind=str(information.get_attr("IFLA_INFO_KIND") or "") if information else "",
        master_index=int(message.get_attr("IFLA_MASTER") or 0),
        is_up=bool(flags & _UP),
        has_carrier=str(message.get_attr("IFLA_OPERSTATE")) == "UP",
        mtu=int(message.get_attr("IFLA_MTU") or 0),
        mac=str(message.get_attr("IFLA_ADDRESS") or ""),
        peer_index=int(message.get_attr("IFLA_LINK") or 0),
    )


def _local_address(message: Any) -> str:
    return str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))


def _translate(error: NetlinkError, name: str, purpose: str) -> OperationalError:
    return OperationalError(Kind.FAULT, f"interface {name}", f"cannot {purpose}: {error}")
