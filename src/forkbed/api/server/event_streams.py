"""Server-sent events: operations, events and intents as they come, each with an id to go on from.

A follower that was cut off (a restart of the server included) asks again with the last id it saw and misses
nothing. A line of comment goes out when nothing else does, so that both ends notice a dead connection.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TypeVar

from fastapi.responses import StreamingResponse

from forkbed.api.codec import encode
from forkbed.api.contract import EVENT_STREAM
from forkbed.api.server.context import Context
from forkbed.api.server.threads import WAIT_S
from forkbed.base.errors import OperationalError
from forkbed.core.operations.records import Event, JournalEntry
from forkbed.engine.branching import IntentView
from forkbed.engine.requests import OperationDetail

T = TypeVar("T")
_SILENCE_S = 10.0
_KEEP_ALIVE = b": still here\n\n"


def stream_response(stream: AsyncIterator[bytes]) -> StreamingResponse:
    """The answer that sends `stream`."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, media_type=EVENT_STREAM, headers=headers)


async def follow_operation(context: Context, operation_id: str, after: int) -> AsyncIterator[bytes]:
    """An `update` for each change until the operation has ended; the first one holds all steps."""
    sent: dict[int, JournalEntry] = {}
    spoken, gather_s = time.monotonic(), 0.0
    with context.threads.stream():
        while True:
            answer = await context.threads.run_until_stopping(
                partial(context.controller.wait_change, operation_id, after, WAIT_S, gather_s=gather_s)
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
            gather_s = _gather_s(len(detail.journal))
            if time.monotonic() - spoken > _SILENCE_S:
                yield _KEEP_ALIVE
                spoken = time.monotonic()


def follow_events(context: Context, after: int, system: str | None) -> AsyncIterator[bytes]:
    """An `event` for each event after that sequence, without end."""

    def wait(last: int) -> Sequence[Event]:
        return context.controller.wait_events(last, system, WAIT_S)

    return _follow(context, "event", after, wait, lambda event: event.sequence)


def follow_intents(context: Context, fork: str, after: int) -> AsyncIterator[bytes]:
    """An `intent` for each one after that cursor, until the fork is gone."""

    def wait(last: int) -> Sequence[IntentView]:
        return context.controller.wait_intents(fork, last, WAIT_S)

    return _follow(context, "intent", after, wait, lambda view: view.cursor)


async def _follow(
    context: Context,
    kind: str,
    after: int,
    wait: Callable[[int], Sequence[T]],
    number: Callable[[T], int],
) -> AsyncIterator[bytes]:
    """A message for each item that `wait` finds after the last number seen.

    Ends when there is nothing to wait for any more: whoever asks again is told why.
    """
    spoken = time.monotonic()
    with context.threads.stream():
        while True:
            try:
                found = await context.threads.run_until_stopping(partial(wait, after))
            except OperationalError:
                return
            if found is None:
                return
            for item in found:
                after, spoken = number(item), time.monotonic()
                yield _message(after, kind, item)
            if time.monotonic() - spoken > _SILENCE_S:
                yield _KEEP_ALIVE
                spoken = time.monotonic()


def _gather_s(steps: int) -> float:
    """How long to gather changes before looking again: each look reads all steps of the operation.

    A person sees no difference; a fork, which is short of processors, is told of in six messages, not in thirty.
    """
    return min(1.0, 0.2 + steps / 4000)


def _message(number: int, kind: str, content: object) -> bytes:
    # JSON without line breaks: one `data` line is the whole message.
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(encode(content))}\n\n".encode()
