"""Routes of snapshots and forks: keep a cut, go back to it, make forks of it, and what forks tried to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from forkbed.api.bodies import RollbackBody
from forkbed.api.codec import encode
from forkbed.api.contract import EVENT_STREAM
from forkbed.api.server.answers import READ_PROBLEMS, WRITE_PROBLEMS, problems
from forkbed.api.server.context import Api, Shared
from forkbed.api.server.event_streams import follow_intents, stream_response
from forkbed.api.server.operations import STREAM, LastEventId, SystemFilter
from forkbed.api.server.systems import SystemName
from forkbed.api.server.writes import Write, accepted
from forkbed.core.operations.records import Operation
from forkbed.engine.branch_options import ForkOptions, SnapshotOptions
from forkbed.engine.branching import IntentView, SnapshotSummary, TreeNode

router = APIRouter(tags=["snapshots and forks"])


@router.post(
    "/systems/{system}/snapshots", status_code=202, summary="Take a snapshot", responses=WRITE_PROBLEMS
)
def snapshot(
    system: SystemName, body: SnapshotOptions, api: Api, request: Write, response: Response
) -> Operation:
    """Keep one instant of all machines of a system: disks, and memory unless `disks_only`. The operation's
    result holds `snapshot`, its name."""
    return accepted(api.snapshot(system, body, request), response)


@router.get("/systems/{system}/snapshots", summary="List a system's snapshots", responses=READ_PROBLEMS)
def snapshots(system: SystemName, api: Api) -> Sequence[SnapshotSummary]:
    """The oldest first, with each machine's freeze. `automatic` ones were made for a fork or before a
    rollback."""
    return api.snapshots(system)


@router.delete(
    "/systems/{system}/snapshots/{snapshot}",
    status_code=202,
    summary="Delete a snapshot",
    responses=WRITE_PROBLEMS,
)
def snapshot_delete(
    system: SystemName,
    snapshot: Annotated[str, Path(description="The snapshot's name.")],
    api: Api,
    request: Write,
    response: Response,
) -> Operation:
    """Remove it. Layers that something else stands on stay until that goes."""
    return accepted(api.snapshot_delete(system, snapshot, request), response)


@router.post(
    "/systems/{system}/rollback",
    status_code=202,
    summary="Go back to a snapshot",
    responses=WRITE_PROBLEMS,
)
def rollback(
    system: SystemName, body: RollbackBody, api: Api, request: Write, response: Response
) -> Operation:
    """Make the system what it was at a snapshot. What that replaces is kept as a snapshot of its own, whose name
    the operation's result holds as `kept`."""
    return accepted(api.rollback(system, body.snapshot, request), response)


@router.post("/systems/{system}/forks", status_code=202, summary="Fork a system", responses=WRITE_PROBLEMS)
def fork(system: SystemName, body: ForkOptions, api: Api, request: Write, response: Response) -> Operation:
    """Make isolated copies of a running system, memory, disks and network identity included. The operation's
    result holds `forks` (the names of the new systems), `cut_at`, `skew_s` and `machines` (how long each stood
    still). Whoever may fork may read what the original keeps secret."""
    return accepted(api.fork(system, body, request), response)


@router.post("/systems/{system}/discard", status_code=202, summary="Discard a fork", responses=WRITE_PROBLEMS)
def discard(system: SystemName, api: Api, request: Write, response: Response) -> Operation:
    """Remove a fork with its data. Layers that other systems stand on stay: the operation's result holds those
    systems as `kept_for`."""
    return accepted(api.discard(system, request), response)


@router.get("/tree", summary="Show the lineage", responses=READ_PROBLEMS)
def tree(api: Api, system: SystemFilter = None) -> Sequence[TreeNode]:
    """Systems, and below each its snapshots and forks, the oldest first; with `system` the one tree that it
    belongs to."""
    return api.tree(system)


@router.get(
    "/systems/{system}/intents",
    summary="List or follow a fork's intents",
    response_model=Sequence[IntentView],
    responses={**READ_PROBLEMS, **problems(409), **STREAM},
)
async def intents(
    system: SystemName,
    http: HttpRequest,
    api: Api,
    shared: Shared,
    after: Annotated[int, Query(ge=0, lt=2**63, description="Only those with a higher cursor.")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000, description="At most so many.")] = 1000,
    last_event_id: LastEventId = None,
) -> Response:
    """What the machines of a fork tried to do to the world, oldest first; a system that is no fork is a conflict.
    With `Accept: text/event-stream` a stream of server-sent events whose ids are the cursors; Last-Event-ID
    takes precedence over `after`."""
    if EVENT_STREAM in http.headers.get("accept", ""):
        start = after if last_event_id is None else last_event_id
        await run_in_threadpool(api.intents, system, after=start, limit=1)  # refuses what has none
        shared.threads.check_room()
        return stream_response(follow_intents(shared, system, start))
    found = await run_in_threadpool(api.intents, system, after=after, limit=limit)
    return JSONResponse([encode(view) for view in found])


@router.post(
    "/systems/{system}/fold", status_code=202, summary="Shorten chains of layers", responses=WRITE_PROBLEMS
)
def fold(system: SystemName, api: Api, request: Write, response: Response) -> Operation:
    """Merge layers of the system's volumes while it runs, as far as snapshots and forks allow."""
    return accepted(api.fold(system, request), response)
