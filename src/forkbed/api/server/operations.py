"""Routes of operations and events, as lists and as streams of server-sent events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from forkbed.api.codec import encode
from forkbed.api.contract import EVENT_STREAM
from forkbed.api.server.answers import READ_PROBLEMS, WRITE_PROBLEMS, Responses
from forkbed.api.server.context import Api, Shared
from forkbed.api.server.event_streams import follow_events, follow_operation, stream_response
from forkbed.api.server.writes import Write, accepted
from forkbed.core.operations.records import Event, Operation
from forkbed.engine.requests import OperationDetail

router = APIRouter(tags=["operations"])
OperationName = Annotated[str, Path(description="The operation's id.")]
SystemFilter = Annotated[str | None, Query(description="Only what concerns this system.")]
LastEventId = Annotated[
    int | None, Header(alias="Last-Event-ID", ge=0, lt=2**63, description="Go on after this one.")
]
STREAM: Responses = {200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}}


@router.get("/operations", summary="List operations", responses=READ_PROBLEMS)
def operations(
    api: Api,
    system: SystemFilter = None,
    active: Annotated[bool, Query(description="Only those that have not ended.")] = False,
    limit: Annotated[int, Query(ge=1, le=10_000, description="At most so many.")] = 100,
) -> Sequence[Operation]:
    """The newest first, without `result`: the operation itself has that."""
    return api.operations(system=system, active_only=active, limit=limit)


@router.get("/operations/{operation_id}", summary="Show an operation", responses=READ_PROBLEMS)
def operation(operation_id: OperationName, api: Api) -> OperationDetail:
    """What was asked, by whom, where it is, and each step on the host."""
    return api.operation(operation_id)


@router.post(
    "/operations/{operation_id}/cancel",
    status_code=202,
    summary="Cancel an operation",
    responses=WRITE_PROBLEMS,
)
def cancel(operation_id: OperationName, api: Api, request: Write, response: Response) -> Operation:
    """Ask it to stop at the next point where stopping harms nothing."""
    return accepted(api.cancel(operation_id, request), response)


@router.get(
    "/operations/{operation_id}/events",
    summary="Follow an operation",
    response_class=Response,
    responses={
        **READ_PROBLEMS,
        **STREAM,
        204: {"description": "It has ended and Last-Event-ID was its last event"},
    },
)
async def operation_events(
    operation_id: OperationName, api: Api, shared: Shared, last_event_id: LastEventId = None
) -> Response:
    """Server-sent events until it has ended: `update` with the operation and the steps that changed since the
    event before. The id is the operation's version; with Last-Event-ID a follower goes on where it stopped."""
    detail = await run_in_threadpool(api.operation, operation_id)
    after = -1 if last_event_id is None else last_event_id
    if detail.operation.status.ended and detail.version == after:
        return Response(status_code=204)
    shared.threads.check_room()
    return stream_response(follow_operation(shared, operation_id, after))


@router.get(
    "/events",
    summary="List or follow events",
    response_model=Sequence[Event],
    responses={**READ_PROBLEMS, **STREAM},
)
async def events(
    http: HttpRequest,
    api: Api,
    shared: Shared,
    system: SystemFilter = None,
    after: Annotated[int, Query(ge=0, lt=2**63, description="Only those with a higher sequence.")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000, description="At most so many.")] = 1000,
    last_event_id: LastEventId = None,
) -> Response:
    """What happened, oldest first. With `Accept: text/event-stream` an endless stream of server-sent events
    whose ids are the events' sequences; Last-Event-ID takes precedence over `after`."""
    if EVENT_STREAM in http.headers.get("accept", ""):
        shared.threads.check_room()
        start = after if last_event_id is None else last_event_id
        return stream_response(follow_events(shared, start, system))
    found = await run_in_threadpool(api.events, after=after, system=system, limit=limit)
    return JSONResponse([encode(event) for event in found])
