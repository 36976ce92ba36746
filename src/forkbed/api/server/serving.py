"""Run the API on its Unix socket until told to end.

The socket belongs to root and, if it exists, the group `forkbed`, mode 0660. A socket that a dead server left
is replaced; one that is served is left alone.
"""

from __future__ import annotations

import contextlib
import grp
import os
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from forkbed.api.frames import MESSAGE_LIMIT_BYTES
from forkbed.api.server.app import create_app
from forkbed.api.server.context import Context
from forkbed.api.server.peers import GROUP, PeerProtocol
from forkbed.base.errors import Kind, OperationalError

_GRACE_S = 5
_BACKLOG = 512


def serve(context: Context, listener: socket.socket, on_started: Callable[[], None] | None = None) -> None:
    """Answer on `listener` until SIGTERM or SIGINT. Call it in the main thread; signals are handled there."""
    server(context, on_started).run(sockets=[listener])


def server(context: Context, on_started: Callable[[], None] | None = None) -> uvicorn.Server:
    """The server, not yet running; tests run it in a thread and end it with `should_exit`."""
    config = uvicorn.Config(
        create_app(context),
        http=PeerProtocol,
        ws="websockets-sansio",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        ws_max_size=MESSAGE_LIMIT_BYTES + 1,
        # On a local socket the kernel tells at once when a peer has gone, and a ping would wait behind a
        # stream that is held back on purpose.
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=_GRACE_S,
        backlog=_BACKLOG,
    )
    return _Server(config, context, on_started)


class _Server(uvicorn.Server):
    """Ends the streams first, so that the rest has time to finish."""

    def __init__(
        self, config: uvicorn.Config, context: Context, on_started: Callable[[], None] | None
    ) -> None:
        super().__init__(config)
        self._context = context
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._on_started is not None:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._context.threads.stopping.set()
        await super().shutdown(sockets)
        self._context.threads.close()


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`. Raises CONFLICT if a server already answers there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)  # nobody else may connect before owner and mode are right
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise OperationalError(
            Kind.FAULT,
            str(path),
            f"cannot listen there: {error.strerror or error}",
            "run `forkbed serve` as root, or set FORKBED_RUNTIME_DIR to a directory of your own",
        ) from error
    finally:
        os.umask(previous)
    with contextlib.suppress(KeyError, PermissionError):
        os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
    path.chmod(0o660)
    listener.listen(_BACKLOG)
    return listener


def _clear(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise OperationalError(Kind.FAULT, str(path), f"cannot listen there: {error}") from error
    raise OperationalError(
        Kind.CONFLICT,
        str(path),
        "a Forkbed server already answers there",
        "use it, or end it first",
    )
