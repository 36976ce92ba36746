"""Routes of upgrades: try one on a fork, see what it changed, let it take over, and go back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Response

from forkbed.api.server.answers import READ_PROBLEMS, WRITE_PROBLEMS
from forkbed.api.server.context import Api
from forkbed.api.server.systems import SystemName
from forkbed.api.server.writes import Write, accepted
from forkbed.api.upgrades import (
    DiffBody,
    MaintenanceBody,
    RehearseBody,
    RevertBody,
    diff_options,
    rehearse_options,
    steps_of,
)
from forkbed.core.operations.records import Operation
from forkbed.core.rehearsals.records import Rehearsal
from forkbed.engine.promoting import GenerationView, PromoteOptions, PromotionPlan

router = APIRouter(tags=["upgrades"])
RehearsalName = Annotated[str, Path(description="The rehearsal's name.")]


@router.post(
    "/systems/{system}/rehearsals", status_code=202, summary="Rehearse an upgrade", responses=WRITE_PROBLEMS
)
def rehearse(
    system: SystemName, body: RehearseBody, api: Api, request: Write, response: Response
) -> Operation:
    """Run steps on a fresh live fork of a system, then the manifest's checks. The operation's result holds
    `rehearsal`, its name, and `passed`. Every error of the steps is in the problem's `details`, as of a manifest."""
    return accepted(api.rehearse(system, steps_of(body), rehearse_options(body), request), response)


@router.get("/systems/{system}/rehearsals", summary="List a system's rehearsals", responses=READ_PROBLEMS)
def rehearsals(system: SystemName, api: Api) -> Sequence[Rehearsal]:
    """The oldest first, with what came of each step and check, and how long a promotion would make the system
    stand still."""
    return api.rehearsals(system)


@router.post("/diffs", status_code=202, summary="Compare two systems", responses=WRITE_PROBLEMS)
def diff(body: DiffBody, api: Api, request: Write, response: Response) -> Operation:
    """Compare two related systems: how they are declared, and what is on their disks. The operation's result is
    the comparison."""
    return accepted(api.diff(body.left, body.right, diff_options(body), request), response)


@router.post(
    "/rehearsals/{rehearsal}/plan", summary="Show what a promotion would do", responses=WRITE_PROBLEMS
)
def promotion_plan(rehearsal: RehearsalName, body: PromoteOptions, api: Api) -> PromotionPlan:
    """Every step of a promotion, the predicted freeze, and why it would be refused. Nothing changes."""
    return api.promotion_plan(rehearsal, body)


@router.post(
    "/rehearsals/{rehearsal}/promote",
    status_code=202,
    summary="Promote a rehearsal",
    responses=WRITE_PROBLEMS,
)
def promote(
    rehearsal: RehearsalName, body: PromoteOptions, api: Api, request: Write, response: Response
) -> Operation:
    """Replay the rehearsed steps on a cut of now while the system stands still, and let the result take over. If
    anything fails before that, the system goes on as it was. The operation's result holds `generation`, `freeze_s`,
    `predicted_s` and `kept` (the system with the generation before). An attempt that failed stays as a fork, one of
    the operation's `other_systems`, unless `keep_attempt` is false."""
    return accepted(api.promote(rehearsal, body, request), response)


@router.post(
    "/systems/{system}/revert",
    status_code=202,
    summary="Go back to the kept generation",
    responses=WRITE_PROBLEMS,
)
def revert(system: SystemName, body: RevertBody, api: Api, request: Write, response: Response) -> Operation:
    """Let the generation before the last promotion take over again; the present one is kept. Unsafe, with the list
    of what would be lost, if the present one has written since and `accept_loss` is not given. The operation's result
    holds `generation`, `kept` and `lost`."""
    return accepted(api.revert(system, accept_loss=body.accept_loss, request=request), response)


@router.get("/systems/{system}/generations", summary="List a system's generations", responses=READ_PROBLEMS)
def generations(system: SystemName, api: Api) -> Sequence[GenerationView]:
    """The live one first, then those that are kept, the newest first."""
    return api.generations(system)


@router.post(
    "/systems/{system}/maintenance",
    status_code=202,
    summary="Keep a system's users off, or let them back",
    responses=WRITE_PROBLEMS,
)
def maintenance(
    system: SystemName, body: MaintenanceBody, api: Api, request: Write, response: Response
) -> Operation:
    """Run the manifest's maintenance hooks in every machine, one way or the other."""
    return accepted(api.maintenance(system, on=body.on, request=request), response)
