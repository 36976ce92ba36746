"""The application: all routes under /v1, failures as problem documents, and who may come in."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forkbed import __version__
from forkbed.api.contract import BODY_LIMIT_BYTES, OCTETS, PREFIX
from forkbed.api.server import answers, branching, general, guests, images, operations, systems, upgrades
from forkbed.api.server.context import Context
from forkbed.api.server.peers import PeerGate
from forkbed.base.errors import Kind, OperationalError
from forkbed.base.units import format_size

_ABOUT = """Systems of real machines on one host. Every change is an *operation*: it answers 202 with a
Location, and its events tell how it goes. Errors are problem documents (RFC 9457) with a remedy. Streams into
machines (`exec`, `console`) are WebSockets, described in docs/reference/http-api.md."""


def create_app(context: Context) -> FastAPI:
    """The application on top of `context.controller`."""

    app = FastAPI(
        title="Forkbed",
        version=__version__,
        description=_ABOUT,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.context = context
    for module in (systems, branching, upgrades, operations, images, guests, general):
        app.include_router(module.router, prefix=PREFIX)
    answers.install(app)
    app.add_middleware(BodyGate)
    app.add_middleware(PeerGate)
    return app


class BodyGate:
    """Refuses JSON bodies that are too large, or whose size is not told, before anything reads them.

    Closes the connection after an answer that came before the whole body: the rest is never read, and a client
    that goes on sending it would wait for ever.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 411 or 413 with a problem document, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_read = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers

        async def watched_receive() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = is_read or not message.get("more_body", False)
            return message

        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start" and not is_read:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        refusal = _body_refusal(headers)
        if refusal is None:
            await self._app(scope, watched_receive, watched_send)
        else:
            error, status = refusal
            await answers.problem_response(error, status)(scope, watched_receive, watched_send)


def _body_refusal(headers: Headers) -> tuple[OperationalError, int] | None:
    if headers.get("content-type", "").startswith(OCTETS):
        return None  # an image: streamed to a file under a limit of its own
    if "transfer-encoding" in headers:
        error = OperationalError(Kind.INVALID, "the request", "its length is missing", "send Content-Length")
        return error, 411
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > BODY_LIMIT_BYTES:
        brief = f"its body is larger than {format_size(BODY_LIMIT_BYTES)}"
        return OperationalError(Kind.INVALID, "the request", brief, "send less with it"), 413
    return None
