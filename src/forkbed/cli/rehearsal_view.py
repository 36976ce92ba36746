"""Rehearsals, predictions and generations as people read them. What steps wrote is made harmless for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from forkbed.base.units import format_size
from forkbed.cli.branch_view import short_time
from forkbed.cli.output import printable, state, styled, when
from forkbed.core.rehearsals.records import FreezePrediction, Rehearsal, StepOutcome
from forkbed.engine.promoting import GenerationView

REHEARSAL_HEADINGS = ("REHEARSAL", "STATUS", "STEPS", "CHECKS", "BEGAN", "TOOK", "FREEZE", "REVISION")
GENERATION_HEADINGS = ("GENERATION", "STATE", "SYSTEM", "SINCE", "EXPIRES", "OWN SIZE", "MEMORY", "NOTE")


def rehearsal_row(rehearsal: Rehearsal) -> tuple[str, ...]:
    """A row under `REHEARSAL_HEADINGS`."""
    good_steps = sum(not outcome.error for outcome in rehearsal.outcomes)
    good_checks = sum(check.good for check in rehearsal.checks)
    ended = rehearsal.ended_at
    return (
        rehearsal.name,
        state(rehearsal.status),
        f"{good_steps}/{len(rehearsal.steps)}",
        f"{good_checks}/{len(rehearsal.checks)}" if rehearsal.checks else "",
        when(rehearsal.created_at),
        "" if ended is None else short_time(ended - rehearsal.created_at),
        "" if rehearsal.prediction is None else short_time(rehearsal.prediction.total_s),
        str(rehearsal.revision),
    )


def generation_row(generation: GenerationView) -> tuple[str, ...]:
    """A row under `GENERATION_HEADINGS`."""
    return (
        str(generation.number),
        state(generation.state),
        generation.name,
        when(generation.since),
        when(generation.expires_at),
        format_size(generation.own_bytes),
        format_size(generation.memory_bytes) if generation.memory_bytes else "",
        printable(generation.note),
    )


def report(rehearsal: Rehearsal, stream: int = 1) -> Iterator[str]:
    """What came of a rehearsal, in lines for standard output, or with 2 for standard error."""
    yield "steps:"
    yield from _aligned(_step_cells(rehearsal, stream))
    if rehearsal.checks:
        yield "checks:"
        yield from _aligned(
            (
                check.machine,
                printable(check.check),
                short_time(check.took_s),
                styled("good", "green", stream)
                if check.good
                else styled(f"bad: {printable(check.reason)}", "red", stream),
            )
            for check in rehearsal.checks
        )
    if rehearsal.prediction is not None:
        yield f"a promotion would stand still for {prediction_words(rehearsal.prediction)}"
    if rehearsal.summary:
        yield "it changed:"
        yield from (f"  {printable(line)}" for line in rehearsal.summary)
    if rehearsal.differing:
        yield "two rehearsals of one cut ended up with these differently:"
        yield from (f"  {printable(path)}" for path in rehearsal.differing)
    elif rehearsal.twice and rehearsal.summary:
        yield "two rehearsals of one cut ended up the same"
    if rehearsal.intents:
        yield f"it tried to reach the world {rehearsal.intents} times"
    yield from (f"{styled('warning:', 'yellow', stream)} {printable(words)}" for words in rehearsal.warnings)
    if rehearsal.error:
        yield f"{styled('failed:', 'red', stream)} {printable(rehearsal.error)}"


def outputs(rehearsal: Rehearsal) -> Iterator[str]:
    """What its steps wrote, in lines."""
    for outcome in rehearsal.outcomes:
        if outcome.output:
            yield styled(f"{outcome.name} wrote:", "bold")
            yield from (f"  {printable(line)}" for line in outcome.output.splitlines())


def prediction_words(prediction: FreezePrediction) -> str:
    """`about 4.3 s: cut 400 ms, restore 1.2 s, steps 2.5 s, checks 150 ms, switch 50 ms`."""
    parts = (
        ("cut", prediction.cut_s),
        ("restore", prediction.restore_s),
        ("steps", prediction.steps_s),
        ("checks", prediction.checks_s),
        ("switch", prediction.switch_s),
    )
    told = ", ".join(f"{word} {short_time(seconds)}" for word, seconds in parts if seconds)
    return f"about {short_time(prediction.total_s)}" + (f": {told}" if told else "")


def _step_cells(rehearsal: Rehearsal, stream: int) -> Iterator[tuple[str, ...]]:
    outcomes = {outcome.name: outcome for outcome in rehearsal.outcomes}
    for step in rehearsal.steps:
        outcome = outcomes.get(step.name)
        took = "" if outcome is None else short_time(outcome.took_s)
        yield (printable(step.name), step.machine, took, _end(outcome, stream))


def _end(outcome: StepOutcome | None, stream: int) -> str:
    if outcome is None:
        return styled("did not run", "dim", stream)
    if outcome.error:
        return styled(f"failed: {printable(outcome.error)}", "red", stream)
    return styled("done", "green", stream)


def _aligned(rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    """Rows in columns; only the last cell may be styled."""
    lines = list(rows)
    widths = [max(len(line[column]) for line in lines) for column in range(3)] if lines else []
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        yield f"  {'  '.join((*cells, line[3]))}"
