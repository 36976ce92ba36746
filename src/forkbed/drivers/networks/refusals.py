"""What on the host speaks against a network, found before anything of it is made."""

from __future__ import annotations

from collections.abc import Sequence

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.networks.publications import ANY_ADDRESS
from forkbed.drivers.networks import listening
from forkbed.drivers.networks.links import Links, read_sysctl
from forkbed.drivers.networks.records import Record


def refuse_conflicts(wanted: Record, before: Record | None, others: Sequence[Record]) -> None:
    """Raise what keeps `wanted` from being made beside `others`; ports that `before` has are not asked about."""
    subject = f"network {wanted.label}"
    if wanted.outside:
        _refuse_missing_bridge(subject, wanted.outside)
    if wanted.outside in {wanted.bridge, *(other.bridge for other in others)}:
        raise OperationalError(
            Kind.CONFLICT,
            subject,
            f"the bridge {wanted.outside} is a network's of Forkbed, not the host's own",
            "choose another uplink",
        )
    if wanted.transit is None:
        return
    if read_sysctl("ipv4/ip_forward") != "1":
        raise OperationalError(
            Kind.FAULT,
            subject,
            "this host does not forward IPv4, which NAT and published ports need",
            "run `forkbed host prepare`, or set the sysctl net.ipv4.ip_forward to 1",
        )
    for other in others:
        if other.transit is not None and other.transit.overlaps(wanted.transit):
            raise OperationalError(
                Kind.CONFLICT, subject, f"its transit {wanted.transit} belongs to network {other.label}"
            )
    _refuse_taken_ports(subject, wanted, before, others)


def _refuse_missing_bridge(subject: str, bridge: str) -> None:
    with Links() as links:
        found = links.find(bridge)
        if found is None or found.kind != "bridge":
            raise OperationalError(
                Kind.NOT_FOUND,
                subject,
                f"this host has no bridge named {bridge}",
                "make it, or choose another uplink",
            )


def _refuse_taken_ports(
    subject: str, wanted: Record, before: Record | None, others: Sequence[Record]
) -> None:
    with Links() as links:
        own_addresses = links.addresses()
    held = {(p.protocol, p.host_address, p.host_port) for p in before.publications} if before else set()
    for entry in wanted.publications:
        refused = f"cannot publish {entry.label} to {entry.machine_address}"
        for other in others:
            if any(entry.overlaps(theirs) for theirs in other.publications):
                raise OperationalError(
                    Kind.CONFLICT,
                    subject,
                    f"{refused}: network {other.label} has it",
                    "choose another host port",
                )
        if (entry.protocol, entry.host_address, entry.host_port) in held:
            continue
        is_own = entry.host_address.is_loopback or entry.host_address == ANY_ADDRESS
        if not is_own and entry.host_address not in own_addresses:
            raise OperationalError(
                Kind.CONFLICT,
                subject,
                f"{refused}: {entry.host_address} is no address of this host",
                "publish on one of its addresses, or on 0.0.0.0 for all of them",
            )
        if listening.is_in_use(entry.protocol, entry.host_address, entry.host_port):
            raise OperationalError(
                Kind.CONFLICT,
                subject,
                f"{refused}: a process of this host listens there",
                "choose another host port, or stop what listens there",
            )
