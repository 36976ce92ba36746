"""Whether networks can be built here: tried in a scratch namespace that vanishes with the process in it."""

from __future__ import annotations

from forkbed.base.errors import OperationalError
from forkbed.drivers import processes
from forkbed.drivers.doctor.findings import Finding, fail, ok

_ISOLATED = (
    "unshare",
    "--net",
    "--mount",
    "--pid",
    "--uts",
    "--ipc",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--",
)
_LINKS = """\
link add fbbridge type bridge
link add fbnear type veth peer name fbfar
link set fbnear master fbbridge
tuntap add fbtap mode tap
link set fbtap master fbbridge
link set fbbridge up
link set fbtap up
"""
# The shapes that Forkbed's own rules use: anti-spoofing on a bridge, and address translation.
_RULES = """\
table bridge forkbed_doctor {
    set macs {
        type ifname . ether_addr
        elements = { "fbtap" . 02:00:00:00:00:01 }
    }
    set addresses {
        type ifname . ether_addr . ipv4_addr
        elements = { "fbtap" . 02:00:00:00:00:01 . 198.18.0.2 }
    }
    set clients {
        typeof iifname . @th,288,48
        elements = { "fbtap" . 0x020000000001 }
    }
    chain guests {
        type filter hook prerouting priority -300; policy accept;
        iifname . ether saddr != @macs drop
        ether type ip iifname . ether saddr . ip saddr @addresses accept
        ether type arp arp operation reply drop
        udp sport 67 drop
        udp dport 67 iifname . @th,288,48 != @clients drop
        meta mark set 1
    }
}
table ip forkbed_doctor {
    chain out {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 198.18.0.0/24 masquerade
    }
    chain in {
        type nat hook prerouting priority dstnat; policy accept;
        tcp dport 8080 dnat to 198.18.0.2:80
        fib daddr type local dnat ip to udp dport map { 53 : 198.18.0.2 . 53 }
    }
    chain first {
        type filter hook prerouting priority raw; policy accept;
        iifname "fbbridge*" notrack
    }
}
"""


def examine_namespaces() -> Finding:
    """Make namespaces of the five kinds and, inside, the links that a network consists of."""
    try:
        _in_scratch(("ip", "-batch", "-"), _LINKS)
    except OperationalError as error:
        return fail(
            "namespaces",
            f"namespaces, a bridge, a veth pair and a tap could not be made: {error.brief}",
            "run it as root, on a kernel with namespaces, bridge, veth and tun (also inside a container)",
        )
    return ok("namespaces", "namespaces, a bridge, a veth pair and a tap could be made")


def examine_filters() -> Finding:
    """Load rules of the kinds that networks use: a set that the kernel refuses leaves no rule at all."""
    try:
        _in_scratch(("nft", "-f", "-"), _RULES)
    except OperationalError as error:
        return fail(
            "filters",
            f"nftables rules for bridges could not be loaded: {error.brief}",
            "a kernel with nf_tables for the bridge family and NAT is needed",
        )
    return ok("filters", "nftables rules against spoofing and for address translation could be loaded")


def _in_scratch(argv: tuple[str, ...], text: str) -> None:
    processes.run((*_ISOLATED, *argv), input=text.encode(), timeout_s=20)
