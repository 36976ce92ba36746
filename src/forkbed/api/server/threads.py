"""Where blocking calls of long streams wait, so that they never use up the threads of ordinary requests.

Ordinary requests run in the framework's own pool. A stream (an open command, a console, somebody who follows
events) waits in a thread here; their number is limited, and one more is refused as BUSY instead of queued.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from forkbed.base.errors import Kind, OperationalError

T = TypeVar("T")
WAIT_S = 0.5
"""How long a waiting thread stays away at most; the end of the server waits for that."""
THREADS_PER_STREAM = 3  # reads output, writes input, and one to spare for opening and closing


class StreamThreads:
    """A pool for at most `limit` simultaneous streams."""

    def __init__(self, limit: int = 150) -> None:
        self._limit = limit
        self._open = 0
        self._pool = ThreadPoolExecutor(limit * THREADS_PER_STREAM, thread_name_prefix="stream")
        self.stopping = asyncio.Event()

    def check_room(self) -> None:
        """Raise BUSY when there are too many streams. Asked before an answer begins, when it can still be told."""
        if self._open >= self._limit:
            raise OperationalError(
                Kind.BUSY,
                "the API",
                f"{self._limit} streams are open, which is the limit",
                "end some exec, console or follow commands and try again",
            )

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Count as one stream while inside."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def run(self, call: Callable[[], T]) -> T:
        """Do a blocking call in a thread of this pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def run_until_stopping(self, call: Callable[[], T]) -> T | None:
        """`run`, but answers None at once when the server is about to end."""
        task = asyncio.ensure_future(self.run(call))
        stop = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            stop.cancel()
            task.cancel()

    def close(self) -> None:
        """Take no more work; threads end with what they are doing."""
        self._pool.shutdown(wait=False, cancel_futures=True)
