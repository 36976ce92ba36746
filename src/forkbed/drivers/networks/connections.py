"""Hand connections over from one service namespace to another that takes its place, with the same addresses.

What a client is in the middle of goes on only if the namespace knows how its addresses are translated: a guest that
speaks first, because the client has asked and waits, would otherwise be translated as a connection of its own.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import NFCTSocket
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

from forkbed.drivers.networks import namespaces

_TCP = 6
_ESTABLISHED = 3
_TRANSLATED = 1 << 4 | 1 << 5  # IPS_SRC_NAT, IPS_DST_NAT
_KNOWN_TO_BOTH = 1 << 1 | 1 << 2 | 1 << 3  # IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED
_ANY_WINDOW = (
    1 << 3
)  # IP_CT_TCP_FLAG_BE_LIBERAL: the sequence numbers so far were seen by the other namespace
_KEPT_S = 24 * 3600
_Tuple = tuple[str, int, str, int]


@dataclass(frozen=True, slots=True)
class Connection:
    """An established TCP connection: source and destination, as asked for and as answered, addresses with ports."""

    asked: _Tuple
    answered: _Tuple
    scales: tuple[int, int]


def hand_over(source: Path, target: Path) -> int:
    """Have the namespace `target` know the translated TCP connections of `source`; returns how many were new to it."""
    known = namespaces.run_inside(source, _read)
    return namespaces.run_inside(target, lambda: sum(_write(known)))


def _read() -> list[Connection]:
    with NFCTSocket() as conntrack:
        messages = list(conntrack.dump())
    found = []
    for message in messages:
        state = _tcp(message)
        if state is None or state.get_attr("CTA_PROTOINFO_TCP_STATE") != _ESTABLISHED:
            continue
        if int(message.get_attr("CTA_STATUS")) & _TRANSLATED:
            scales = tuple(
                int(state.get_attr(f"CTA_PROTOINFO_TCP_WSCALE_{way}") or 0) for way in ("ORIGINAL", "REPLY")
            )
            asked, answered = (_tuple(message.get_attr(f"CTA_TUPLE_{way}")) for way in ("ORIG", "REPLY"))
            found.append(Connection(asked, answered, (scales[0], scales[1])))
    return found


def _write(connections: list[Connection]) -> list[bool]:
    with NFCTSocket() as conntrack:
        return [_add(conntrack, connection) for connection in connections]


def _add(conntrack: Any, connection: Connection) -> bool:
    """Whether it was not known. The kernel wants the answer untranslated, and the translation beside it."""
    source, source_port, target, target_port = connection.asked
    asked = NFCTAttrTuple(saddr=source, sport=source_port, daddr=target, dport=target_port, proto=_TCP)
    answerer, answerer_port, asker, asker_port = connection.answered
    translations: dict[str, Any] = {}
    if (answerer, answerer_port) != (target, target_port):
        translations["nat_dst"] = _translation(answerer, answerer_port)
    if (asker, asker_port) != (source, source_port):
        translations["nat_src"] = _translation(asker, asker_port)
    try:
        conntrack.entry(
            "add",
            timeout=_KEPT_S,
            status=_KNOWN_TO_BOTH,
            tuple_orig=asked,
            tuple_reply=asked.reverse(),
            protoinfo=_protoinfo(connection.scales),
            **translations,
        )
    except NetlinkError as error:
        if error.code == errno.EEXIST:
            return False
        raise
    return True


def _tcp(message: Any) -> Any:
    information = message.get_attr("CTA_PROTOINFO")
    return information.get_attr("CTA_PROTOINFO_TCP") if information is not None else None


def _tuple(message: Any) -> _Tuple:
    ends, ports = message.get_attr("CTA_TUPLE_IP"), message.get_attr("CTA_TUPLE_PROTO")
    return (
        str(ends.get_attr("CTA_IP_V4_SRC")),
        int(ports.get_attr("CTA_PROTO_SRC_PORT")),
        str(ends.get_attr("CTA_IP_V4_DST")),
        int(ports.get_attr("CTA_PROTO_DST_PORT")),
    )


def _translation(address: str, port: int) -> dict[str, Any]:
    ports = [["CTA_PROTONAT_PORT_MIN", port], ["CTA_PROTONAT_PORT_MAX", port]]
    return {
        "attrs": [
            ["CTA_NAT_V4_MINIP", address],
            ["CTA_NAT_V4_MAXIP", address],
            ["CTA_NAT_PROTO", {"attrs": ports}],
        ]
    }


def _protoinfo(scales: tuple[int, int]) -> dict[str, Any]:
    liberal = {"value": (_ANY_WINDOW, _ANY_WINDOW)}
    return {
        "attrs": [
            [
                "CTA_PROTOINFO_TCP",
                {
                    "attrs": [
                        ["CTA_PROTOINFO_TCP_STATE", _ESTABLISHED],
                        ["CTA_PROTOINFO_TCP_WSCALE_ORIGINAL", scales[0]],
                        ["CTA_PROTOINFO_TCP_WSCALE_REPLY", scales[1]],
                        ["CTA_PROTOINFO_TCP_FLAGS_ORIGINAL", liberal],
                        ["CTA_PROTOINFO_TCP_FLAGS_REPLY", liberal],
                    ]
                },
            ]
        ]
    }
