"""Server-sent events as values, resumed where they broke off."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from forkbed.api.client.transport import Transport
from forkbed.api.contract import EVENT_STREAM, LAST_EVENT_HEADER
from forkbed.base.errors import Kind, OperationalError

_SILENCE_S = 40.0  # the server speaks at least every 10 s
_RETRY_S = 0.5


def follow(
    transport: Transport,
    path: str,
    *,
    params: dict[str, Any],
    after: int | None,
    patience_s: float,
    on_gap: Callable[[OperationalError], None] | None = None,
) -> Iterator[Any]:
    """The JSON of each event, going on after the last one when the connection breaks.

    A server that does not answer is asked again for `patience_s`, so that a restart of it is not seen; `on_gap`
    is told once for each gap. Ends when the server says that nothing more will come.
    """
    last = after
    lost_at: float | None = None
    while True:
        headers = {"Accept": EVENT_STREAM} | ({} if last is None else {LAST_EVENT_HEADER: str(last)})
        try:
            with transport.stream(path, params=params, headers=headers, silence_s=_SILENCE_S) as response:
                if response.status == 204:
                    return
                for number, data in _events(response.lines()):
                    last, lost_at = number, None
                    yield data
        except OperationalError as error:
            if error.kind is not Kind.UNREACHABLE:
                raise
            if lost_at is None:
                lost_at = time.monotonic()
                if on_gap is not None:
                    on_gap(error)
            if time.monotonic() - lost_at > patience_s:
                raise
        # Also after an orderly end: the server may be ending. One that has no more to tell answers 204.
        time.sleep(_RETRY_S if lost_at is not None else 0.05)


def _events(lines: Iterator[str]) -> Iterator[tuple[int, Any]]:
    number, data = 0, ""
    for line in lines:
        if line.startswith("id: "):
            number = int(line[4:])
        elif line.startswith("data: "):
            data = line[6:]
        elif not line and data:
            yield number, json.loads(data)
            data = ""
