"""Make the lab's published ports appear on the real host's 127.0.0.1.

A process of the real host that listens there and relays to the same port inside the lab's network namespace; it
follows `published.json` as Forkbed in the lab rewrites it, and ends with the lab.

usage: python -m forkbed.lab.proxy DIRECTORY
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from pathlib import Path

from forkbed.config.log import configure_log
from forkbed.drivers.liveness import is_alive
from forkbed.lab.layout import (
    LabPaths,
    LabRecord,
    PublishedPort,
    parse_published,
    write_atomically,
)
from forkbed.lab.namespaces import SocketMaker

LOOPBACK = "127.0.0.1"
_LOOK_AGAIN_S = 0.2
_MOVING_S = 3.0
_CONNECT_TIMEOUT_S = 140.0  # longer than TCP tries in the lab, which waits for a guest that stands still
_UDP_IDLE_S = 60.0
_UDP_CLIENTS = 256
_CHUNK_BYTES = 65536


def main(argv: list[str]) -> None:
    """Relay until the lab ends."""
    configure_log(os.environ)
    paths = LabPaths(Path(argv[0]))
    record = LabRecord.load(paths.record)
    if record is None or record.init is None:
        sys.exit(f"{paths.record} names no running lab")
    lab = os.pidfd_open(record.init.pid)
    if not is_alive(record.init):
        sys.exit("the lab has ended")
    with SocketMaker(Path(f"/proc/{record.init.pid}/ns/net")) as sockets:
        asyncio.run(_serve(paths, sockets, lab))


async def _serve(paths: LabPaths, sockets: SocketMaker, lab: int) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(lab, ended.set)
    proxy = Proxy(sockets)
    seen: object = None
    try:
        while not ended.is_set():
            stamp = _stamp(paths.published)
            if stamp != seen:
                with contextlib.suppress(ValueError):  # half-written or foreign: keep what there is
                    await proxy.follow(_published(paths.published))
                    write_atomically(paths.forwards, json.dumps(proxy.report()))
                seen = stamp
            await proxy.let_go()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _LOOK_AGAIN_S)
    finally:
        await proxy.follow(frozenset())
        await proxy.let_go(now=True)


def _stamp(path: Path) -> object:
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _published(path: Path) -> frozenset[PublishedPort]:
    try:
        return parse_published(path.read_text())
    except FileNotFoundError:
        return frozenset()


class Proxy:
    """The listeners on 127.0.0.1, one for each published port."""

    def __init__(self, sockets: SocketMaker) -> None:
        self._sockets = sockets
        self._listeners: dict[PublishedPort, _TcpRelay | _UdpRelay] = {}
        self._failed: dict[PublishedPort, str] = {}
        self._leaving: dict[PublishedPort, float] = {}  # until when

    async def follow(self, wanted: frozenset[PublishedPort]) -> None:
        """Listen to these ports. One that cannot be listened to is reported, and tried again next time.

        One that is not published any more may be on its way from one generation to the next: `let_go` ends it.
        """
        now = asyncio.get_running_loop().time()
        self._leaving = {
            port: self._leaving.get(port, now + _MOVING_S) for port in self._listeners.keys() - wanted
        }
        places = {(port.protocol, port.host_port) for port in wanted}
        for port in self._leaving:
            if (port.protocol, port.host_port) in places:  # published on another of the host's addresses now
                self._leaving[port] = now
        await self.let_go()
        self._failed.clear()
        for port in sorted(wanted - self._listeners.keys()):
            relay = (
                _TcpRelay(port, self._sockets) if port.protocol == "tcp" else _UdpRelay(port, self._sockets)
            )
            try:
                await relay.listen()
            except OSError as error:
                self._failed[port] = error.strerror or str(error)
            else:
                self._listeners[port] = relay

    async def let_go(self, *, now: bool = False) -> None:
        """End listeners whose ports have not been published for a while, or at once."""
        time = asyncio.get_running_loop().time()
        for port in [port for port, until in self._leaving.items() if now or time >= until]:
            del self._leaving[port]
            await self._listeners.pop(port).close()

    def report(self) -> list[dict[str, object]]:
        """Each wanted port with what keeps it from being listened to ("" if nothing does)."""
        states = dict.fromkeys(self._listeners.keys() - self._leaving.keys(), "") | self._failed
        return [
            {"protocol": port.protocol, "port": port.host_port, "problem": problem}
            for port, problem in sorted(states.items())
        ]


class _TcpRelay:
    def __init__(self, port: PublishedPort, sockets: SocketMaker) -> None:
        self._port = port
        self._sockets = sockets
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accepted, LOOPBACK, self._port.host_port)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                inner = await asyncio.wrap_future(self._sockets.make(socket.SOCK_STREAM))
                try:
                    address = (self._port.host_address, self._port.host_port)
                    await asyncio.get_running_loop().sock_connect(inner, address)
                except BaseException:
                    inner.close()
                    raise
        except OSError:  # refused or no answer: the client sees the connection reset
            writer.transport.abort()
            return
        inner_reader, inner_writer = await asyncio.open_connection(sock=inner)
        try:
            await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
        except OSError:
            pass  # one side broke off; the other side learns it now
        finally:
            inner_writer.transport.abort()
            writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    # Only this direction ends: "send, shut down, read the answer" must work through the relay.
    writer.write_eof()


class _UdpRelay(asyncio.DatagramProtocol):
    def __init__(self, port: PublishedPort, sockets: SocketMaker) -> None:
        self._port = port
        self._sockets = sockets
        self._transport: asyncio.DatagramTransport | None = None
        self._clients: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._queues: dict[tuple[str, int], asyncio.Queue[bytes]] = {}

    async def listen(self) -> None:
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: self, (LOOPBACK, self._port.host_port)
        )

    async def close(self) -> None:
        assert self._transport is not None
        self._transport.close()
        tasks = list(self._clients.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def datagram_received(self, data: bytes, client: tuple[str, int]) -> None:
        if client not in self._queues:
            if len(self._queues) >= _UDP_CLIENTS:
                return  # as a full router would
            self._queues[client] = asyncio.Queue(_UDP_CLIENTS)
            self._clients[client] = asyncio.create_task(self._serve(client))
        with contextlib.suppress(asyncio.QueueFull):
            self._queues[client].put_nowait(data)

    async def _serve(self, client: tuple[str, int]) -> None:
        """Carry one client's datagrams there and back until it has been silent for a while."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        queue = self._queues[client]
        inner = await asyncio.wrap_future(self._sockets.make(socket.SOCK_DGRAM))
        answers = None
        try:
            await loop.sock_connect(inner, (self._port.host_address, self._port.host_port))
            answers = asyncio.create_task(self._answer(inner, client))
            while True:
                data = await asyncio.wait_for(queue.get(), _UDP_IDLE_S)
                with contextlib.suppress(OSError):  # nobody listens there yet: datagrams may be lost
                    await loop.sock_sendall(inner, data)
        except (TimeoutError, OSError):
            pass
        finally:
            del self._queues[client], self._clients[client]
            if answers is not None:
                answers.cancel()
                await asyncio.gather(answers, return_exceptions=True)
            inner.close()

    async def _answer(self, inner: socket.socket, client: tuple[str, int]) -> None:
        assert self._transport is not None
        while True:
            try:
                data = await asyncio.get_running_loop().sock_recv(inner, _CHUNK_BYTES)
            except ConnectionRefusedError:
                continue
            self._transport.sendto(data, client)


if __name__ == "__main__":
    main(sys.argv[1:])
