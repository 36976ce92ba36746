"""Between a WebSocket and a stream of a guest (a running command, a console): bytes both ways, bounded.

Three tasks: one sends what the guest writes and waits for the client to take it; one gives the guest what the
client sent and grants it room for more; one reads the client's messages at once, so that a resize or the
client's end is seen also while the guest takes no input. The guest's end closes the WebSocket; the client's
end closes the guest's stream, which kills the command.
"""

from __future__ import annotations

import asyncio
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from starlette.websockets import WebSocket

from forkbed.api.frames import (
    FRAME_BYTES,
    INPUT_WINDOW_BYTES,
    Channel,
    pack,
    pack_control,
    read_control,
    unpack,
)
from forkbed.api.server.threads import WAIT_S, StreamThreads
from forkbed.base.errors import Kind, OperationalError
from forkbed.ports.guests import CommandChannel
from forkbed.ports.hypervisor import ConsoleStream


class GuestStream(Protocol):
    """What the bridge needs of a command or a console. All calls may block but `via` and `notice`.

    `__exit__` may come while a `write` waits in another thread, which it ends; no `read` is under way then.
    """

    via: str
    notice: str

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def read(self, timeout_s: float) -> tuple[Channel, bytes] | None: ...

    def write(self, data: bytes) -> None: ...

    def close_input(self) -> None: ...

    def resize(self, rows: int, columns: int) -> None: ...

    def exit_status(self) -> int: ...


class CommandStream:
    """A running command as a stream."""

    def __init__(self, channel: CommandChannel) -> None:
        self._channel = channel
        self.via = channel.via
        self.notice = channel.notice
        self.write = channel.write
        self.close_input = channel.close_input
        self.resize = channel.resize
        self.exit_status = channel.exit_status

    def __enter__(self) -> Self:
        self._channel.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._channel.__exit__(*exc)

    def read(self, timeout_s: float) -> tuple[Channel, bytes] | None:
        """The next output, on its channel; no bytes if none came in time; None at the end."""
        item = self._channel.read(timeout_s)
        if item is None:
            return None
        stream, data = item
        return (Channel.ERROR_OUTPUT if stream == "stderr" else Channel.OUTPUT), data


class ConsoleBridge:
    """A serial console as a stream: no end of input, no size, no exit status but 0."""

    via = "console"
    notice = ""

    def __init__(self, console: ConsoleStream) -> None:
        self._console = console
        self.write = console.write

    def __enter__(self) -> Self:
        self._console.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._console.__exit__(*exc)

    def read(self, timeout_s: float) -> tuple[Channel, bytes] | None:
        """The next output; no bytes if none came in time; None when the console ended."""
        data = self._console.read(timeout_s)
        return None if data is None else (Channel.OUTPUT, data)

    def close_input(self) -> None:
        """A serial line has no end of input."""

    def resize(self, rows: int, columns: int) -> None:
        """A serial line has no size."""

    def exit_status(self) -> int:
        """It ended."""
        return 0


async def bridge(websocket: WebSocket, stream: GuestStream, threads: StreamThreads) -> None:
    """Carry bytes until either end has gone. Raises what the guest's side raised."""
    await _Bridge(websocket, stream, threads).run()


class _Bridge:
    def __init__(self, websocket: WebSocket, stream: GuestStream, threads: StreamThreads) -> None:
        self._websocket = websocket
        self._stream = stream
        self._threads = threads
        self._pending: asyncio.Queue[bytes] = asyncio.Queue()
        self._granted_bytes = 0
        self._reading: asyncio.Future[tuple[Channel, bytes] | None] | None = None

    async def run(self) -> None:
        await self._grant(INPUT_WINDOW_BYTES)  # first: whoever hears `opened` may write
        opened = pack_control("opened", via=self._stream.via, notice=self._stream.notice)
        await self._websocket.send_bytes(opened)
        output = asyncio.create_task(self._send_output())
        messages = asyncio.create_task(self._take_messages())
        writer = asyncio.create_task(self._write_input())
        try:
            done, _ = await asyncio.wait((output, messages), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (output, messages, writer):
                task.cancel()
            await asyncio.gather(output, messages, writer, return_exceptions=True)
            if self._reading is not None:
                # Its thread may be about to read from a descriptor that the caller will close.
                await asyncio.gather(self._reading, return_exceptions=True)

    async def _send_output(self) -> None:
        while (item := await self._read()) is not None:
            channel, data = item
            for start in range(0, len(data), FRAME_BYTES):
                await self._websocket.send_bytes(pack(channel, data[start : start + FRAME_BYTES]))
        status = await self._threads.run(self._stream.exit_status)
        await self._websocket.send_bytes(pack_control("exit", status=status))

    async def _read(self) -> tuple[Channel, bytes] | None:
        self._reading = asyncio.ensure_future(self._threads.run(partial(self._stream.read, WAIT_S)))
        return await asyncio.shield(self._reading)

    async def _take_messages(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            try:
                await self._take(message.get("bytes") or b"")
            except (ValueError, KeyError, TypeError) as error:
                raise OperationalError(
                    Kind.INVALID, "the stream", f"a frame makes no sense: {error}"
                ) from error

    async def _take(self, frame: bytes) -> None:
        channel, data = unpack(frame)
        if channel is Channel.INPUT:
            if len(data) > self._granted_bytes:
                raise ValueError("more input than was granted")
            self._granted_bytes -= len(data)
            self._pending.put_nowait(data)
        elif channel is Channel.CONTROL:
            control = read_control(data)
            if control["type"] == "resize":
                rows, columns = int(control["rows"]), int(control["columns"])
                await self._threads.run(partial(self._stream.resize, rows, columns))

    async def _write_input(self) -> None:
        open_for_input = True
        while data := await self._pending.get():
            if open_for_input:
                try:
                    await self._threads.run(partial(self._stream.write, data))
                except (OperationalError, BrokenPipeError):
                    # The command reads no more, as `head` does: the rest is taken and dropped, and its exit
                    # status tells how it went.
                    open_for_input = False
            await self._grant(len(data))
        if open_for_input:
            await self._threads.run(self._stream.close_input)

    async def _grant(self, size_bytes: int) -> None:
        self._granted_bytes += size_bytes
        await self._websocket.send_bytes(pack_control("window", bytes=size_bytes))
