"""Predict from what a rehearsal took how long a promotion will make the original stand still. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from forkbed.core.operations.records import JournalEntry
from forkbed.core.rehearsals.records import CheckOutcome, FreezePrediction, StepOutcome

_SWITCH_S = 1.0  # the disks are kept, networks change hands; measured, and hardly depending on the system
_REPLAYED = ("hook", "step", "check")


def predict_freeze(
    journal: Sequence[JournalEntry], outcomes: Sequence[StepOutcome], checks: Sequence[CheckOutcome]
) -> FreezePrediction:
    """From the rehearsal's `journal` in its order: a promotion does the same, with the original standing still.

    Only what was done before the replay counts as making the fork: a step that reboots waits for `ready` again,
    and that is in what the step took. Memory is restored while it is written, so keeping it counts for nothing more.
    """
    made = list(takewhile(lambda entry: entry.verb not in _REPLAYED, journal))

    def longest(verb: str) -> float:
        took = (entry.ended_at - entry.started_at for entry in made if entry.verb == verb and entry.ended_at)
        return max(took, default=0.0)

    return FreezePrediction(
        cut_s=longest("cut"),
        restore_s=longest("restore") + longest("awaken") + longest("ready"),
        steps_s=sum(outcome.took_s for outcome in outcomes),
        checks_s=max((check.took_s for check in checks), default=0.0),
        switch_s=_SWITCH_S,
    )
