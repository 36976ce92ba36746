"""How long a promotion will stand still is told from what its rehearsal took, each part counted once."""

from __future__ import annotations

from forkbed.base.ids import OperationId
from forkbed.core.operations.records import JournalEntry, StepStatus
from forkbed.core.rehearsals.prediction import predict_freeze
from forkbed.core.rehearsals.records import CheckOutcome, StepOutcome


def journal(*entries: tuple[str, float, float | None]) -> list[JournalEntry]:
    """Entries of these verbs, with when they began and ended."""
    return [
        JournalEntry(
            number, OperationId("1"), verb, verb, "it", "here", StepStatus.CHANGED, began, ended_at=ended
        )
        for number, (verb, began, ended) in enumerate(entries, 1)
    ]


MADE = (
    ("cut", 100, 101),
    ("keep", 101, 103),
    ("restore", 101, 104),
    ("awaken", 104, 105),
    ("ready", 105, 106),
    ("ready", 105, 108),
)


CHECKS = [
    CheckOutcome("boss", "tcp", True, 0.5),
    CheckOutcome("boss", "http", True, 0.25),
    CheckOutcome("ops", "tcp", True, 0.4),
]


def test_every_part_has_its_time() -> None:
    steps = [StepOutcome("one", "boss", 108, 10.0), StepOutcome("two", "boss", 118, 5.0)]
    prediction = predict_freeze(journal(*MADE), steps, CHECKS)
    assert (prediction.cut_s, prediction.restore_s) == (1.0, 7.0), "machines side by side, as they are kept"
    assert (prediction.steps_s, prediction.checks_s) == (15.0, 0.5), "checks are asked side by side"
    assert prediction.total_s == 23.5 + prediction.switch_s


def test_a_step_that_reboots_is_not_counted_twice() -> None:
    replayed = (("step", 108, 200), ("ready", 110, 200), ("check", 200, 201))
    rebooted = predict_freeze(journal(*MADE, *replayed), [StepOutcome("reboot", "boss", 108, 92.0)], [])
    assert rebooted.restore_s == 7.0, "the second `ready` is part of the step"
    assert rebooted.steps_s == 92.0


def test_what_did_not_end_counts_for_nothing() -> None:
    assert predict_freeze(journal(("cut", 100, None)), [], []).cut_s == 0.0
