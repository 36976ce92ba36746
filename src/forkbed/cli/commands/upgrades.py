"""`rehearse`, `rehearsals`, `promote`, `revert`, `generations`, `maintenance`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from cyclopts import Parameter

from forkbed.api.client import Client
from forkbed.api.codec import decode
from forkbed.api.upgrades import PromoteResult, RehearseResult, RevertResult
from forkbed.base.errors import Kind, OperationalError
from forkbed.cli.branch_view import short_time
from forkbed.cli.commands.parameters import IfRevision, NoWait, seconds
from forkbed.cli.invocation import current
from forkbed.cli.output import emit, printable, say, state, styled, table, when
from forkbed.cli.rehearsal_view import (
    GENERATION_HEADINGS,
    REHEARSAL_HEADINGS,
    generation_row,
    outputs,
    prediction_words,
    rehearsal_row,
    report,
)
from forkbed.cli.targets import system_name
from forkbed.cli.waiting import complete, finish
from forkbed.core.operations.records import Operation
from forkbed.core.rehearsals.records import Rehearsal
from forkbed.engine.promoting import PromoteOptions, PromotionPlan, RehearseOptions
from forkbed.engine.requests import SystemSummary

RehearsalName = Annotated[
    str, Parameter(name="REHEARSAL", help="The rehearsal's name; `forkbed rehearsals SYSTEM` lists them.")
]


def rehearse(
    system: str,
    /,
    *,
    steps: Annotated[
        str, Parameter(help="The file of steps; `-` reads standard input.", allow_leading_hyphen=True)
    ],
    name: Annotated[
        str,
        Parameter(
            name="--as", help="What to call the fork and the rehearsal; with --twice NAME-1 and NAME-2."
        ),
    ] = "",
    twice: Annotated[
        bool, Parameter(help="On two forks of one cut, to name files that differ for no good reason.")
    ] = False,
    no_wait: NoWait = False,
    if_revision: IfRevision = None,
) -> int:
    """Try an upgrade on a fresh fork of a running system: run the steps, then the manifest's checks.

    The system itself is not touched and runs on. Says how long each step took, what changed, and how long a
    promotion would make the system stand still. The fork stays, to be looked at. The rehearsal's name goes to
    standard output.

    ```
    forkbed rehearse boss-ops --steps upgrade.yaml
    forkbed rehearse boss-ops --steps upgrade.yaml --as try-16 --twice
    ```
    """
    from forkbed.cli.bundling import read_steps  # here: it reads YAML, which the other commands need not

    bundle = read_steps(steps)
    system_name(system)
    with current().client() as client:
        options = RehearseOptions(name, twice)
        operation = client.rehearse(system, bundle, options, if_match=if_revision)
        ended = complete(
            client,
            operation,
            wait=not no_wait,
            on_failure=lambda _failed: _tell_rehearsal(system, client.rehearsals(system)[-1:]),
        )
        if ended is not None:
            _tell_rehearsed(client, system, ended)
    return 0


def rehearsals(
    system: str,
    /,
    *,
    show: Annotated[
        str, Parameter(help="One rehearsal: steps and what they wrote, checks, changes, predicted freeze.")
    ] = "",
) -> None:
    """List a system's rehearsals, the oldest first, or show one.

    `FREEZE` is how long a promotion is predicted to make the system stand still.

    ```
    forkbed rehearsals boss-ops
    forkbed rehearsals boss-ops --show try-16
    ```
    """
    with current().client() as client:
        found = client.rehearsals(system_name(system))
    if not show:
        if not emit(found):
            hint = f"forkbed rehearse {system} --steps FILE"
            empty = f"{system} has no rehearsals; make one: {hint}"
            table(REHEARSAL_HEADINGS, map(rehearsal_row, found), empty=empty)
        return
    rehearsal = next((each for each in reversed(found) if each.name == show), None)
    if rehearsal is None:
        raise OperationalError(
            Kind.NOT_FOUND,
            f"rehearsal {show}",
            f"{system} has none of that name",
            f"`forkbed rehearsals {system}` lists them",
        )
    if not emit(rehearsal):
        _print_rehearsal(rehearsal)


def promote(
    rehearsal: RehearsalName,
    /,
    *,
    dry_run: Annotated[bool, Parameter(help="Only print every step and the predicted freeze.")] = False,
    max_freeze: Annotated[
        str | None,
        Parameter(help="Give up, and let the system go on, when it stood still for that long, such as 10s."),
    ] = None,
    discard_attempt: Annotated[
        bool, Parameter(help="Do not keep the fork of an attempt that failed.")
    ] = False,
    no_wait: NoWait = False,
    if_revision: IfRevision = None,
) -> int:
    """Upgrade a system as it was rehearsed: replay the steps on a cut of now, then let the result take over.

    The system stands still meanwhile, so nothing that it acknowledged is lost. If a step or a check fails, or
    `--max-freeze` is over, it goes on as it was. The generation that was replaced is kept: `forkbed revert`.

    ```
    forkbed promote try-16 --dry-run
    forkbed promote try-16 --max-freeze 10s
    ```
    """
    options = PromoteOptions(seconds("--max-freeze", max_freeze), keep_attempt=not discard_attempt)
    with current().client() as client:
        if dry_run or not current().json:
            plan = client.promotion_plan(rehearsal, options)
            if dry_run:
                _print_plan(plan)
                return 0
            if not plan.refusal:
                say(f"{plan.system} will stand still for {prediction_words(plan.prediction)}")
        operation = client.promote(rehearsal, options, if_match=if_revision)
        ended = complete(
            client,
            operation,
            wait=not no_wait,
            on_failure=lambda failed: _tell_attempt(client.systems(), failed),
        )
    if ended is not None:
        _tell_promoted(ended)
    return 0


def revert(
    system: str,
    /,
    *,
    accept_loss: Annotated[
        bool, Parameter(help="Also if the present generation has written since. This is recorded.")
    ] = False,
    no_wait: NoWait = False,
    if_revision: IfRevision = None,
) -> int:
    """Switch back to the generation before the last promotion. The present one is kept in its turn.

    If it has written anything since, that is listed and the revert refused without `--accept-loss`.

    ```
    forkbed revert boss-ops
    forkbed revert boss-ops --accept-loss
    ```
    """
    with current().client() as client:
        operation = client.revert(system_name(system), accept_loss=accept_loss, if_match=if_revision)
        ended = complete(client, operation, wait=not no_wait)
    if ended is not None:
        _tell_reverted(ended)
    return 0


def generations(system: str, /) -> None:
    """List a system's generations: the live one, and those that are kept to go back to, with when they expire.

    ```
    forkbed generations boss-ops
    ```
    """
    with current().client() as client:
        found = client.generations(system_name(system))
    if not emit(found):
        table(GENERATION_HEADINGS, map(generation_row, found), empty=f"{system} has no generations")


def maintenance(
    system: str,
    switch: Annotated[
        Literal["on", "off"], Parameter(name="on|off", help="Keep users off, or let them back.")
    ],
    /,
    *,
    no_wait: NoWait = False,
) -> int:
    """Run the manifest's maintenance commands in every machine, those for `on` or those for `off`.

    ```
    forkbed maintenance boss-ops on
    forkbed maintenance boss-ops off
    ```
    """
    with current().client() as client:
        operation = client.maintenance(system_name(system), on=switch == "on")
        return finish(client, operation, wait=not no_wait)


def _tell_rehearsal(system: str, found: Sequence[Rehearsal]) -> None:
    for rehearsal in found:
        for line in report(rehearsal, stream=2):
            say(line)
        say(f"what its steps wrote: forkbed rehearsals {system} --show {rehearsal.name}")


def _tell_rehearsed(client: Client, system: str, operation: Operation) -> None:
    made = decode(RehearseResult, operation.result or {})
    print(made.rehearsal)
    _tell_rehearsal(system, [each for each in client.rehearsals(system) if each.name == made.rehearsal][-1:])
    if not made.passed:
        raise OperationalError(
            Kind.FAULT,
            f"rehearsal {made.rehearsal}",
            "has not passed",
            "correct the steps and rehearse again",
        )
    say("what next:")
    say(f"  forkbed diff {system} {made.rehearsal}")
    say(f"  forkbed promote {made.rehearsal} --dry-run")
    say(f"  forkbed discard {made.rehearsal}")


def _print_rehearsal(rehearsal: Rehearsal) -> None:
    began = f"{when(rehearsal.created_at)}  revision {rehearsal.revision}"
    print(f"{styled(rehearsal.name, 'bold')}  {state(rehearsal.status)}  {began}")
    print(f"by {rehearsal.requester.account}: {styled(rehearsal.requester.command, 'dim')}")
    for line in (*report(rehearsal), *outputs(rehearsal)):
        print(line)


def _print_plan(plan: PromotionPlan) -> None:
    if emit(plan):
        return
    print(f"{plan.system} becomes generation {plan.generation}, as {plan.rehearsal} rehearsed it")
    for number, step in enumerate(plan.steps, 1):
        print(f"{number:3}  {step}")
    say(f"it would stand still for {prediction_words(plan.prediction)}")
    if plan.refusal:
        say(f"{styled('refused:', 'red', 2)} {plan.refusal}")
        say(f"{styled('what to do:', 'bold', 2)} {plan.remedy}")


def _tell_attempt(systems: Sequence[SystemSummary], operation: Operation) -> None:
    for attempt in systems:
        if attempt.id in operation.other_systems:
            until = f" until {when(attempt.expires_at)}" if attempt.expires_at is not None else ""
            say(f"the attempt is kept as the fork {attempt.name}{until}")
            say(f"  remove it: forkbed discard {attempt.name}")


def _tell_promoted(operation: Operation) -> None:
    done = decode(PromoteResult, operation.result or {})
    if done.generation is not None:
        say(f"{operation.subject} is generation {done.generation} now")
    if done.freeze_s is not None:
        predicted = f"; predicted were {short_time(done.predicted_s)}" if done.predicted_s is not None else ""
        say(f"it stood still for {short_time(done.freeze_s)}{predicted}")
    if done.kept:
        say(f"the generation before it is kept as {done.kept}\n  go back: forkbed revert {operation.subject}")


def _tell_reverted(operation: Operation) -> None:
    done = decode(RevertResult, operation.result or {})
    if done.generation is not None:
        say(f"{operation.subject} is generation {done.generation} again")
    if done.lost:
        say("given up:")
        for lost in done.lost:
            say(f"  {printable(lost)}")
    if done.kept:
        say(f"the generation that it left is kept as {done.kept}: forkbed generations {operation.subject}")
