from __future__ import annotations

import asyncio
import grp
import json
import os
import socket as sockets
from typing import Any

import pytest

from forkbed.api.server.peers import Peer, PeerGate, may_ask, peer_of


def test_the_kernel_tells_who_the_peer_is() -> None:
    ours, theirs = sockets.socketpair(sockets.AF_UNIX)
    with ours, theirs:
        peer = peer_of(ours)
    assert (peer.uid, peer.gid) == (os.getuid(), os.getgid())


def test_root_and_the_servers_own_account_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert may_ask(Peer(0, 0, "root"))
    assert may_ask(Peer(1234, 1234, "server"))
    assert not may_ask(Peer(65534, 65534, "nobody"))


def test_members_of_the_group_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    group = grp.struct_group(("forkbed", "x", 4242, []))
    monkeypatch.setattr(grp, "getgrnam", lambda _name: group)
    monkeypatch.setattr(
        os, "getgrouplist", lambda account, gid: [gid, 4242] if account == "member" else [gid]
    )
    assert may_ask(Peer(1000, 4242, "primary"))
    assert may_ask(Peer(1000, 1000, "member"))
    assert not may_ask(Peer(1001, 1001, "other"))


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("state", [{}, {"peer": Peer(65534, 65534, "nobody")}])
def test_nobody_else_comes_in(kind: str, state: dict[str, Any]) -> None:
    sent: list[dict[str, Any]] = []

    async def application(*_: object) -> None:
        raise AssertionError("it came through")

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    asyncio.run(PeerGate(application)({"type": kind, "state": state}, receive, send))
    assert sent[0]["status"] == 403
    assert json.loads(sent[1]["body"])["status"] == 403
