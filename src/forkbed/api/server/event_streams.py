"""Server-sent events: operations and events as they change, each with an id to go on from.

A follower that was cut off (a restart of the server included) asks again with the last id it saw and misses
nothing. A line of comment goes out when nothing else does, so that both ends notice a dead connection.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from functools import partial

from fastapi.responses import StreamingResponse

from forkbed.api.codec import encode
from forkbed.api.contract import EVENT_STREAM
from forkbed.api.server.context import Context
from forkbed.api.server.threads import WAIT_S
from forkbed.core.operations.records import JournalEntry
from forkbed.engine.requests import OperationDetail

_SILENCE_S = 10.0
_KEEP_ALIVE = b": still here\n\n"


def stream_response(stream: AsyncIterator[bytes]) -> StreamingResponse:
    """The answer that sends `stream`."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, media_type=EVENT_STREAM, headers=headers)


async def follow_operation(context: Context, operation_id: str, after: int) -> AsyncIterator[bytes]:
    """An `update` for each change until the operation has ended; the first one holds all steps."""
    sent: dict[int, JournalEntry] = {}
    spoken = time.monotonic()
    with context.threads.stream():
        while True:
            answer = await context.threads.run_until_stopping(
                partial(context.controller.wait_change, operation_id, after, WAIT_S)
            )
            if answer is None:
                return
            version, detail = answer
            if version != after:  # a lower one: the server was started anew
                changed = tuple(entry for entry in detail.journal if sent.get(entry.sequence) != entry)
                sent.update((entry.sequence, entry) for entry in changed)
                yield _message(version, "update", OperationDetail(detail.operation, changed, version))
                after, spoken = version, time.monotonic()
            if detail.operation.status.ended:
                return
            await asyncio.sleep(_pause_s(len(detail.journal)))
            if time.monotonic() - spoken > _SILENCE_S:
                yield _KEEP_ALIVE
                spoken = time.monotonic()


async def follow_events(context: Context, after: int, system: str | None) -> AsyncIterator[bytes]:
    """An `event` for each event after that sequence, without end."""
    spoken = time.monotonic()
    with context.threads.stream():
        while True:
            found = await context.threads.run_until_stopping(
                partial(context.controller.wait_events, after, system, WAIT_S)
            )
            if found is None:
                return
            for event in found:
                yield _message(event.sequence, "event", event)
                after, spoken = event.sequence, time.monotonic()
            if time.monotonic() - spoken > _SILENCE_S:
                yield _KEEP_ALIVE
                spoken = time.monotonic()


def _pause_s(steps: int) -> float:
    """How long to gather changes before looking again: each look reads all steps of the operation."""
    return min(1.0, 0.05 + steps / 4000)


def _message(number: int, kind: str, content: object) -> bytes:
    # JSON without line breaks: one `data` line is the whole message.
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(encode(content))}\n\n".encode()
