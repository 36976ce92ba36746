"""The real server on a real Unix socket, in a thread, on a controller in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forkbed.api.controller import ControllerApi
from forkbed.api.server.context import Context
from forkbed.api.server.serving import listen, server
from forkbed.api.server.threads import StreamThreads


@contextmanager
def running_server(
    controller: ControllerApi, socket: Path, *, streams: int = 50, upload_limit_bytes: int = 64 * 1024**2
) -> Iterator[None]:
    """Serve while inside."""
    context = Context(controller, StreamThreads(streams), socket.parent / "transfers", upload_limit_bytes)
    started = threading.Event()
    running = server(context, started.set)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listen(socket)]})
    thread.start()
    try:
        assert started.wait(10)
        yield
    finally:
        running.should_exit = True
        thread.join(20)
        socket.unlink(missing_ok=True)
        assert not thread.is_alive()
