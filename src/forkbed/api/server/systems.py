"""Routes of systems: plan, up, down, power, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from forkbed.api.bodies import DownBody, PowerBody, UpBody, bundle_of, up_options
from forkbed.api.contract import entity_tag
from forkbed.api.server.answers import READ_PROBLEMS, WRITE_PROBLEMS
from forkbed.api.server.context import Api
from forkbed.api.server.writes import Write, accepted
from forkbed.core.operations.records import Operation
from forkbed.engine.requests import PlanView, RevisionSummary, SystemDetail, SystemSummary

router = APIRouter(tags=["systems"])
SystemName = Annotated[str, Path(description="The system's name.")]


@router.post("/plans", summary="Show what `up` would do", responses=WRITE_PROBLEMS)
def plan(body: UpBody, api: Api) -> PlanView:
    """Check a manifest and compare it with what is there. Nothing changes. Every error of the manifest is in
    the problem's `details`, one a line: `file:line:col: path: what is wrong; what would be right`."""
    return api.plan(bundle_of(body.bundle), up_options(body))


@router.post("/systems", status_code=202, summary="Bring a system up", responses=WRITE_PROBLEMS)
def up(body: UpBody, api: Api, request: Write, response: Response) -> Operation:
    """Accept a manifest (as a new revision if it differs) and make it true."""
    return accepted(api.up(bundle_of(body.bundle), up_options(body), request), response)


@router.get("/systems", summary="List systems", responses=READ_PROBLEMS)
def systems(api: Api) -> Sequence[SystemSummary]:
    """All systems of this installation."""
    return api.systems()


@router.get("/systems/{system}", summary="Show a system", responses=READ_PROBLEMS)
def system_detail(
    system: SystemName,
    api: Api,
    response: Response,
    revision: Annotated[
        int | None, Query(ge=1, lt=2**31, description="Show this revision's manifest instead of the current.")
    ] = None,
) -> SystemDetail:
    """Its machines and networks, its manifest, and why it is as it is. The ETag is its current revision."""
    detail = api.system(system, revision=revision)
    response.headers["ETag"] = entity_tag(detail.summary.revision)
    return detail


@router.get("/systems/{system}/revisions", summary="List a system's revisions", responses=READ_PROBLEMS)
def history(system: SystemName, api: Api) -> Sequence[RevisionSummary]:
    """Every accepted manifest, with who accepted it and what it changed."""
    return api.history(system)


@router.post(
    "/systems/{system}/down", status_code=202, summary="Take a system down", responses=WRITE_PROBLEMS
)
def down(system: SystemName, body: DownBody, api: Api, request: Write, response: Response) -> Operation:
    """Shut its machines down; with `delete`, remove it with its data."""
    return accepted(api.down(system, delete=body.delete, request=request), response)


@router.post(
    "/systems/{system}/power",
    status_code=202,
    summary="Start, stop or pause machines",
    responses=WRITE_PROBLEMS,
)
def power(system: SystemName, body: PowerBody, api: Api, request: Write, response: Response) -> Operation:
    """Change the power state of some or all machines of a system."""
    operation = api.power(system, body.machines, body.action, force=body.force, request=request)
    return accepted(operation, response)
