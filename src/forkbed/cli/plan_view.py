"""A plan as people read it: like a diff."""

from __future__ import annotations

from forkbed.cli.output import say, styled
from forkbed.core.systems.change_view import RESTART
from forkbed.engine.requests import ChangeKind, ChangeView, FieldChange, PlanView

_MARKS = {
    ChangeKind.CREATE: ("+", "green"),
    ChangeKind.CHANGE: ("~", "yellow"),
    ChangeKind.REMOVE: ("-", "red"),
    ChangeKind.KEEP: (" ", "dim"),
}


def print_plan(plan: PlanView) -> None:
    """The changes on standard output; what is refused, and a summary, on standard error."""
    changes = [change for change in plan.changes if change.kind is not ChangeKind.KEEP]
    new = " (new)" if plan.is_new_revision else ""
    print(f"system {plan.system}, revision {plan.revision}{new}")
    for change in changes:
        print_change(change)
    for refusal in plan.refusals:
        say(f"{styled('refused:', 'red', 2)} {refusal}")
    waiting = [name for name in plan.pending_restarts if f"machine {name}" not in _restarting(plan)]
    if waiting:
        say(f"still run as they were started: {', '.join(waiting)}; --restart makes them as declared")
    if not changes:
        steps = f", {len(plan.steps)} steps" if plan.steps else ": nothing to do"
        say(f"nothing declared differs{steps}")
        return
    counts = [
        f"{sum(change.kind is kind for change in changes)} {word}"
        for kind, word in (
            (ChangeKind.CREATE, "to make"),
            (ChangeKind.CHANGE, "to change"),
            (ChangeKind.REMOVE, "to remove"),
        )
    ]
    say(f"{', '.join(counts)}; {len(plan.steps)} steps")


def _restarting(plan: PlanView) -> set[str]:
    return {change.subject for change in plan.changes if change.needs == RESTART}


def announce(plan: PlanView, *, restart: bool) -> None:
    """Say before it is done which machines are restarted, or which changes wait for the next start."""
    for change in plan.changes:
        if change.kind is not ChangeKind.CHANGE or change.needs != RESTART:
            continue
        what = ", ".join(_field(field, change.kind) for field in change.fields)
        then = "will be restarted" if restart else "waits for its next start; --restart does it now"
        say(f"{change.subject}: {what}: {then}")


def print_change(change: ChangeView) -> None:
    """A machine or network with what differs about it."""
    mark, colour = _MARKS[change.kind]
    needs = f"  [needs {change.needs}]" if change.needs else ""
    print(styled(f"{mark} {change.subject}", colour) + styled(needs, "bold"))
    for field in change.fields:
        print(f"    {_field(field, change.kind)}")
    for lost in change.loses:
        print(styled(f"    loses {lost}", "red"))


def _field(field: FieldChange, kind: ChangeKind) -> str:
    if kind is ChangeKind.CREATE or not field.old:
        return f"{styled('+', 'green')} {field.field}: {field.new}"
    if kind is ChangeKind.REMOVE or not field.new:
        return f"{styled('-', 'red')} {field.field}: {field.old}"
    return f"{styled('~', 'yellow')} {field.field}: {field.old} -> {field.new}"
