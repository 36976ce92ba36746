"""What every write carries: who asks, the idempotency key, and the revision it expects."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Response
from starlette.requests import HTTPConnection

from forkbed.api.contract import IDEMPOTENCY_HEADER, PREFIX, revision_of_tag, unquote_command
from forkbed.api.server.peers import PEER_KEY, Peer
from forkbed.core.operations.records import Operation, Requester
from forkbed.engine.requests import Request


async def requester_of(
    connection: HTTPConnection,
    forkbed_command: Annotated[
        str | None, Header(description="The command as the person typed it, percent-encoded.")
    ] = None,
) -> Requester:
    """Who asks, by the peer's credentials, and with which command."""
    peer: Peer = connection.scope["state"][PEER_KEY]
    typed = unquote_command(forkbed_command) if forkbed_command else ""
    method = connection.scope.get("method", "GET")
    return Requester(peer.uid, peer.account, typed or f"{method} {connection.url.path}")


async def write_request(
    requester: Annotated[Requester, Depends(requester_of)],
    idempotency_key: Annotated[
        str | None,
        Header(
            alias=IDEMPOTENCY_HEADER,
            min_length=1,
            max_length=200,
            description="A second request with the same key answers with the first one's operation.",
        ),
    ] = None,
    if_match: Annotated[
        str | None,
        Header(
            description='The revision that the system must be at, as its ETag: `"3"`; `*` for any.',
            json_schema_extra={"pattern": r'^(\*|"[0-9]{1,9}")$'},
        ),
    ] = None,
) -> Request:
    """The engine's form of a write's headers. Raises INVALID for an If-Match that is no revision."""
    return Request(requester, idempotency_key, revision_of_tag(if_match) if if_match is not None else None)


Asker = Annotated[Requester, Depends(requester_of)]
Write = Annotated[Request, Depends(write_request)]


def accepted(operation: Operation, response: Response) -> Operation:
    """Point the answer's Location to the operation that was started."""
    response.headers["Location"] = f"{PREFIX}/operations/{operation.id}"
    return operation
