"""Routes into machines: run a command, the serial console, and its log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, WebSocket
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocketDisconnect

from forkbed.api.contract import OCTETS
from forkbed.api.frames import Channel, pack_control, read_control, unpack
from forkbed.api.problems import problem_json
from forkbed.api.server.answers import READ_PROBLEMS, Responses
from forkbed.api.server.bridge import CommandStream, ConsoleBridge, GuestStream, bridge
from forkbed.api.server.console_log import new_output
from forkbed.api.server.context import Api, Context, Shared
from forkbed.base.errors import Kind, OperationalError
from forkbed.ports.guests import CommandRequest

router = APIRouter(tags=["machines"])
SystemName = Annotated[str, Path(description="The system's name.")]
MachineName = Annotated[str, Path(description="The machine's name in the system.")]
_BYTES: Responses = {
    200: {"description": "The log's bytes", "content": {OCTETS: {"schema": {"type": "string"}}}}
}
_START_TIMEOUT_S = 30.0
_POLL_S = 1.0


@router.get(
    "/systems/{system}/machines/{machine}/log",
    summary="Read a machine's serial console log",
    response_class=Response,
    responses={**READ_PROBLEMS, **_BYTES},
)
async def console_log(
    system: SystemName,
    machine: MachineName,
    api: Api,
    shared: Shared,
    tail_bytes: Annotated[int | None, Query(ge=0, lt=2**31, description="Only the end.")] = None,
    follow: Annotated[bool, Query(description="Go on with what the machine writes from now on.")] = False,
) -> Response:
    """What the machine wrote to its serial console; the oldest part may be gone."""
    log = await run_in_threadpool(api.console_log, system, machine, None if follow else tail_bytes)
    if not follow:
        return Response(log, media_type=OCTETS)
    shared.threads.check_room()
    return StreamingResponse(_follow(shared, system, machine, log, tail_bytes), media_type=OCTETS)


async def _follow(
    shared: Context, system: str, machine: str, log: bytes, tail_bytes: int | None
) -> AsyncIterator[bytes]:
    with shared.threads.stream():
        yield log if tail_bytes is None else log[max(0, len(log) - tail_bytes) :]
        while not shared.threads.stopping.is_set():
            await asyncio.sleep(_POLL_S)
            before = log
            log = await shared.threads.run(partial(shared.controller.console_log, system, machine, None))
            fresh = new_output(before, log)
            if fresh:
                yield fresh


@router.websocket("/systems/{system}/machines/{machine}/exec")
async def run_command(websocket: WebSocket, system: str, machine: str) -> None:
    """Run the command that the first message (`start`) tells of; see docs/reference/http-api.md."""
    context: Context = websocket.app.state.context

    async def open_stream() -> GuestStream:
        request = await _start(websocket)
        return CommandStream(
            await context.threads.run(partial(context.controller.open_command, system, machine, request))
        )

    await _serve(websocket, context, open_stream)


@router.websocket("/systems/{system}/machines/{machine}/console")
async def open_console(websocket: WebSocket, system: str, machine: str) -> None:
    """The serial console, both ways."""
    context: Context = websocket.app.state.context

    async def open_stream() -> GuestStream:
        return ConsoleBridge(
            await context.threads.run(partial(context.controller.open_console, system, machine))
        )

    await _serve(websocket, context, open_stream)


async def _serve(
    websocket: WebSocket, context: Context, open_stream: Callable[[], Awaitable[GuestStream]]
) -> None:
    """Accept, open, carry; a failure at any point is told by an `error` message before the end."""
    await websocket.accept()
    try:
        context.threads.check_room()
        with context.threads.stream():
            stream = await open_stream()
            try:
                await bridge(websocket, stream, context.threads)
            finally:
                # In a thread, and to its end even if this task is cancelled: it is what ends the command.
                await asyncio.shield(context.threads.run(partial(stream.__exit__, None, None, None)))
        await websocket.close()
    except OperationalError as error:
        with contextlib.suppress(WebSocketDisconnect):
            await websocket.send_bytes(pack_control("error", problem=problem_json(error)))
            await websocket.close(code=1011)
    except WebSocketDisconnect:
        return  # the client has gone: nobody is left to be told


async def _start(websocket: WebSocket) -> CommandRequest:
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            channel, data = unpack(await websocket.receive_bytes())
        message = read_control(data)
        if channel is not Channel.CONTROL or message["type"] != "start":
            raise ValueError("the first message is `start`")
        terminal = message.get("terminal")
        return CommandRequest(
            argv=tuple(_text(word) for word in message["argv"]),
            user=_text(message.get("user", "root")),
            terminal=(int(terminal[0]), int(terminal[1])) if terminal else None,
            via=_text(message.get("via", "auto")),
            mark=_text(message.get("mark", "")),
        )
    except (TimeoutError, ValueError, KeyError, TypeError, IndexError) as error:
        raise OperationalError(
            Kind.INVALID,
            "exec",
            f"the first message tells no command: {error}",
            "see docs/reference/http-api.md",
        ) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not text: {value!r}")
    return value
