"""Routes of the installation as a whole."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Response

from forkbed.api.bodies import GarbageBody
from forkbed.api.server.answers import READ_PROBLEMS, WRITE_PROBLEMS
from forkbed.api.server.context import Api
from forkbed.api.server.writes import Write, accepted
from forkbed.engine.requests import GarbageReport

router = APIRouter(tags=["installation"])


@router.get("/about", summary="Tell what this is", responses=READ_PROBLEMS)
def about(api: Api) -> Mapping[str, object]:
    """Version, installation id, and what the host runs machines with."""
    return api.about()


@router.post(
    "/garbage-collections",
    summary="Remove what nothing needs",
    responses={
        **WRITE_PROBLEMS,
        200: {"description": "What would be removed (dry run), or nothing to remove"},
        202: {"description": "What is being removed, with the operation", "model": GarbageReport},
    },
)
def collect_garbage(body: GarbageBody, api: Api, request: Write, response: Response) -> GarbageReport:
    """Find what bears this installation's id and belongs to no system, and remove it."""
    report = api.garbage(dry_run=body.dry_run, request=request)
    if report.operation is not None:
        response.status_code = 202
        accepted(report.operation, response)
    return report
