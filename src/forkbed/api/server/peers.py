"""Who is on the other end of the Unix socket, and whether they may ask anything.

The kernel tells the peer's uid and gid (SO_PEERCRED); nothing the client sends is needed or believed for that.
"""

from __future__ import annotations

import asyncio
import grp
import json
import os
import pwd
import socket
import struct
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from forkbed.api.problems import PROBLEM_MEDIA_TYPE, problem_json
from forkbed.base.errors import Kind, OperationalError

GROUP = "forkbed"
PEER_KEY = "peer"
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """The account at the other end of a connection."""

    uid: int
    gid: int
    account: str


class PeerProtocol(H11Protocol):
    """uvicorn's HTTP protocol, with the peer's credentials in each request's state (WebSockets inherit it)."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer_socket = transport.get_extra_info("socket")
        self.app_state = {**self.app_state, PEER_KEY: peer_of(peer_socket)}


def peer_of(peer_socket: socket.socket) -> Peer:
    """The account at the other end of a connected Unix socket."""
    data = peer_socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, gid = _CREDENTIALS.unpack(data)
    try:
        account = pwd.getpwuid(uid).pw_name
    except KeyError:
        account = str(uid)
    return Peer(uid, gid, account)


def may_ask(peer: Peer) -> bool:
    """Whether the peer is root, the account the server runs as, or in the group `forkbed`."""
    if peer.uid in (0, os.geteuid()):
        return True
    try:
        allowed = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return False
    return peer.gid == allowed or allowed in os.getgrouplist(peer.account, peer.gid)


class PeerGate:
    """Lets only those who `may_ask` through to the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 with a problem document, or pass the connection on."""
        peer: Peer | None = scope.get("state", {}).get(PEER_KEY)
        if scope["type"] == "lifespan" or (peer is not None and may_ask(peer)):
            await self._app(scope, receive, send)
            return
        error = OperationalError(
            Kind.UNREACHABLE,
            f"account {peer.account}" if peer else "the API",
            "it may not use this Forkbed",
            f"ask as root, or add the account to the group `{GROUP}` and log in again",
        )
        body = json.dumps(problem_json(error, 403)).encode()
        await _refuse(scope["type"], send, body)


async def _refuse(kind: str, send: Send, body: bytes) -> None:
    prefix = "websocket.http.response" if kind == "websocket" else "http.response"
    headers = [(b"content-type", PROBLEM_MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    start: dict[str, Any] = {"type": f"{prefix}.start", "status": 403, "headers": headers}
    await send(start)
    await send({"type": f"{prefix}.body", "body": body})
