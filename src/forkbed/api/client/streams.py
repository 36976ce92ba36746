"""A command or a console in a machine, as the client holds it: bytes both ways, bounded, and an exit status."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.sync.client import ClientConnection, unix_connect

from forkbed.api.client.transport import Transport
from forkbed.api.codec import encode
from forkbed.api.frames import (
    FRAME_BYTES,
    MESSAGE_LIMIT_BYTES,
    Channel,
    pack,
    pack_control,
    read_control,
    unpack,
)
from forkbed.api.problems import error_of
from forkbed.base.errors import Kind, OperationalError
from forkbed.ports.guests import CommandRequest

_OPEN_S = 30.0
_CLOSE_S = 1.0


class GuestConnection:
    """One stream into a machine. `write` may be called from another thread than `output`.

    Leaving the context before the end kills the command.
    """

    def __init__(self, socket: ClientConnection, subject: str) -> None:
        self._socket = socket
        self._subject = subject
        self._room = threading.Condition()
        self._room_bytes = 0
        self._ended = False
        self._left = False
        self._pending: list[tuple[Channel, bytes]] = []
        self.via = ""
        self.notice = ""
        self.exit_status: int | None = None
        """Known once `output` has ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._socket.close()

    def start(self, request: CommandRequest) -> None:
        """Send the first message of a command: what to run."""
        self._send(pack_control("start", **encode(request)))

    def wait_opened(self) -> Self:
        """Wait until the guest's side is there (`via` and `notice` are known). Raises what went wrong instead."""
        while not self.via:
            self._take(self._receive())
        return self

    def output(self) -> Iterator[tuple[Channel, bytes]]:
        """What the guest writes, until the end, or until `leave`."""
        while self.exit_status is None:
            try:
                self._take(self._receive())
            except OperationalError:
                if self._left:
                    return
                raise
            yield from self._pending
            self._pending.clear()

    def leave(self) -> None:
        """End the stream from another thread than the one that reads `output`; a command is killed."""
        self._left = True
        self._socket.close()

    def write(self, data: bytes) -> bool:
        """Send input, waiting for the guest to take what was sent before; False once the stream has ended."""
        view = memoryview(data)
        while view:
            with self._room:
                self._room.wait_for(lambda: self._room_bytes > 0 or self._ended)
                if self._ended:
                    return False
                size = min(len(view), self._room_bytes, FRAME_BYTES)
                self._room_bytes -= size
            if not self._send(pack(Channel.INPUT, bytes(view[:size]))):
                return False
            view = view[size:]
        return True

    def close_input(self) -> None:
        """Tell the command that no more input comes."""
        self._send(pack(Channel.INPUT))

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal's new size."""
        self._send(pack_control("resize", rows=rows, columns=columns))

    def _send(self, frame: bytes) -> bool:
        try:
            self._socket.send(frame)
        except ConnectionClosed:
            return False
        return True

    def _receive(self) -> bytes:
        try:
            frame = self._socket.recv()
        except ConnectionClosed as error:
            self._end()
            raise OperationalError(
                Kind.UNREACHABLE,
                self._subject,
                "the connection broke before the end",
                "look whether `forkbed serve` runs, and try again",
            ) from error
        return frame if isinstance(frame, bytes) else frame.encode()

    def _take(self, frame: bytes) -> None:
        channel, data = unpack(frame)
        if channel is not Channel.CONTROL:
            self._pending.append((channel, data))
            return
        message = read_control(data)
        match message["type"]:
            case "opened":
                self.via, self.notice = message["via"], message["notice"]
            case "window":
                with self._room:
                    self._room_bytes += message["bytes"]
                    self._room.notify_all()
            case "exit":
                self.exit_status = message["status"]
                self._end()
            case "error":
                self._end()
                raise error_of(message["problem"])

    def _end(self) -> None:
        with self._room:
            self._ended = True
            self._room.notify_all()


def connect(transport: Transport, path: str, subject: str) -> GuestConnection:
    """Open a stream at that path of the API. Raises UNREACHABLE without a server."""
    try:
        socket = unix_connect(
            str(transport.socket),
            f"ws://forkbed{path}",
            additional_headers=transport.headers,
            compression=None,
            open_timeout=_OPEN_S,
            close_timeout=_CLOSE_S,
            ping_interval=None,  # the kernel tells when the server has gone
            max_size=MESSAGE_LIMIT_BYTES,
            max_queue=8,
            proxy=None,
        ).__enter__()  # `GuestConnection` closes it
    except InvalidStatus as error:
        raise _refusal(error, subject) from error
    except (OSError, InvalidHandshake, InvalidMessage) as error:
        raise transport.unreachable(error) from error
    return GuestConnection(socket, subject)


def _refusal(error: InvalidStatus, subject: str) -> OperationalError:
    try:
        return error_of(json.loads(error.response.body or b""))
    except ValueError:
        status = error.response.status_code
        return OperationalError(Kind.UNREACHABLE, subject, f"the server refused the stream: {status}")
