"""What the routes share: the controller, the threads of streams, and where uploads are kept meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from forkbed.api.controller import ControllerApi
from forkbed.api.server.threads import StreamThreads

UPLOAD_LIMIT_BYTES = 64 * 1024**3


@dataclass(frozen=True, slots=True)
class Context:
    """`transfers_dir` holds uploads and exports in the making; it is emptied when the server starts."""

    controller: ControllerApi
    threads: StreamThreads
    transfers_dir: Path
    upload_limit_bytes: int = UPLOAD_LIMIT_BYTES


async def _context(connection: HTTPConnection) -> Context:
    context: Context = connection.app.state.context
    return context


async def _controller(connection: HTTPConnection) -> ControllerApi:
    context: Context = connection.app.state.context
    return context.controller


Shared = Annotated[Context, Depends(_context)]
Api = Annotated[ControllerApi, Depends(_controller)]
