"""The commands of upgrades, against the real server on a controller in memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import SystemId
from forkbed.cli.output import when
from forkbed.cli.rehearsal_view import prediction_words
from forkbed.core.rehearsals.bundle import StepsBundle
from forkbed.core.rehearsals.records import CheckOutcome, FreezePrediction
from forkbed.engine.promoting import PromoteOptions, RehearseOptions
from tests.unit.api.fake import FakeController
from tests.unit.api.fake_promoting import BEGAN_AT, FAILED, LOSS, REHEARSAL
from tests.unit.cli.conftest import Cli

TEXT = "version: 1\nsteps:\n- {machine: boss, script: up.sh, push: [{path: /a, source: sub/a.txt}]}\n"
FAULT = OperationalError(
    Kind.FAULT,
    "step 2-boss",
    "on boss ended with status 1 instead of 0",
    "look at the machine: the fork is still there",
    details=("the end of what it wrote:", "  no such column\x1b[2J"),
)


@pytest.fixture
def steps(tmp_path: Path) -> str:
    directory = tmp_path / "upgrade"
    (directory / "sub").mkdir(parents=True)
    (directory / "up.yaml").write_text(TEXT)
    (directory / "up.sh").write_bytes(b"#!/bin/sh\n")
    (directory / "sub" / "a.txt").write_bytes(b"\x00A")
    return str(directory / "up.yaml")


def test_steps_are_sent_with_their_files(cli: Cli, controller: FakeController, steps: str) -> None:
    bundle = StepsBundle(steps, TEXT, {"up.sh": b"#!/bin/sh\n", "sub/a.txt": b"\x00A"})
    assert cli("rehearse", "boss-ops", "--steps", steps).status == 0
    assert cli("rehearse", "boss-ops", "--steps", steps, "--as", "again", "--twice").status == 0
    assert controller.calls == [
        ("rehearse", (bundle, RehearseOptions())),
        ("rehearse", (bundle, RehearseOptions("again", True))),
    ]


# Each test starts a server; these ask it for many things in turn.
ASKED: list[tuple[tuple[str, ...], tuple[str, object]]] = [
    (("promote", "try", "--dry-run"), ("promotion_plan", PromoteOptions())),
    (("promote", "try"), ("promote", ("try", PromoteOptions()))),
    (
        ("promote", "try", "--max-freeze", "1500ms", "--discard-attempt"),
        ("promote", ("try", PromoteOptions(1.5, False))),
    ),
    (("revert", "boss-ops"), ("revert", False)),
    (("revert", "boss-ops", "--accept-loss"), ("revert", True)),
    (("maintenance", "boss-ops", "on"), ("maintenance", True)),
    (("maintenance", "boss-ops", "off"), ("maintenance", False)),
]


def test_what_is_asked_arrives(cli: Cli, controller: FakeController) -> None:
    for words, call in ASKED:
        assert cli(*words).status == 0, words
        assert controller.calls[-1] == call


FAILING = [
    (("rehearse", "boss-ops"), 2),
    (("rehearse", "boss-ops", "--steps", "/none/up.yaml"), 3),
    (("rehearsals", "none"), 3),
    (("rehearsals", "boss-ops", "--show", "none"), 3),
    (("promote", "none"), 3),
    (("promote", "none", "--dry-run"), 3),
    (("promote", "try", "--max-freeze", "soon"), 2),
    (("revert", "none"), 3),
    (("generations", "none"), 3),
    (("maintenance", "boss-ops"), 2),
    (("maintenance", "boss-ops", "maybe"), 2),
    (("maintenance", "none", "on"), 3),
]


def test_failures_have_the_status_of_their_kind(cli: Cli) -> None:
    for words, status in FAILING:
        answer = cli(*words)
        assert (answer.status, answer.out) == (status, ""), words
        assert answer.err.startswith("forkbed: ")


def test_what_is_no_yaml_is_told_before_anything_is_asked(
    cli: Cli, controller: FakeController, steps: str
) -> None:
    Path(steps).write_text("steps: [\n")
    answer = cli("rehearse", "boss-ops", "--steps", steps)
    assert answer.status == 2
    assert f"{steps}:" in answer.err
    assert controller.calls == []


def test_a_rehearsal_says_what_came_of_it_and_what_next(cli: Cli, steps: str) -> None:
    answer = cli("rehearse", "boss-ops", "--steps", steps)
    assert answer.out == "boss-ops-rehearsal-1\n"
    for line in (
        "rehearse boss-ops: done in 1.2 s",
        "  New application  boss  800 ms  done",
        "  3-ops            ops   9.0 s   done",
        "  boss  http 80 /experiments/count  150 ms  good",
        "a promotion would stand still for about 4.3 s: cut 400 ms, restore 1.2 s, steps 2.5 s, checks 150 ms, "
        "switch 50 ms",
        "  boss/root: 2 added, 1 changed; 1 package",
        "it tried to reach the world 2 times",
        "warning: a step tried to reach deb.example: a replay cannot either",
        "  forkbed diff boss-ops boss-ops-rehearsal-1",
        "  forkbed promote boss-ops-rehearsal-1 --dry-run",
    ):
        assert line in answer.err.splitlines(), line


def test_a_failed_rehearsal_has_status_8_and_the_steps_own_words(
    cli: Cli, controller: FakeController, steps: str
) -> None:
    controller.failure = FAULT
    answer = cli("rehearse", "boss-ops", "--steps", steps, "--as", "bad")
    assert (answer.status, answer.out) == (8, "")
    lines = answer.err.splitlines()
    assert "  2-boss           boss  300 ms  failed: ended with status 1 instead of 0" in lines
    assert "  3-ops            ops           did not run" in lines
    assert "what its steps wrote: forkbed rehearsals boss-ops --show bad" in lines
    assert lines[-4:] == [
        "forkbed: step 2-boss: on boss ended with status 1 instead of 0",
        "  the end of what it wrote:",
        r"    no such column\x1b[2J",
        "what to do: look at the machine: the fork is still there",
    ]


def test_a_failed_rehearsal_under_json_is_two_documents(
    cli: Cli, controller: FakeController, steps: str
) -> None:
    controller.failure = FAULT
    answer = cli("rehearse", "boss-ops", "--steps", steps, "--as", "bad", "--json")
    assert answer.status == 8
    assert json.loads(answer.out)["status"] == "failed"
    assert json.loads(answer.err)["subject"] == "step 2-boss"


def test_a_rehearsal_that_ended_without_passing_has_failed(
    cli: Cli, controller: FakeController, steps: str
) -> None:
    controller.passes = False
    answer = cli("rehearse", "boss-ops", "--steps", steps, "--as", "bad")
    assert answer.status == 8
    assert "forkbed: rehearsal bad: has not passed" in answer.err


def test_rehearsals_are_a_table(cli: Cli, controller: FakeController) -> None:
    first, second, third = cli("rehearsals", "boss-ops").out.splitlines()
    assert first.split() == [
        "REHEARSAL", "STATUS", "STEPS", "CHECKS", "BEGAN", "TOOK", "FREEZE", "REVISION",
    ]  # fmt: skip
    assert second.split() == [
        "try",
        "passed",
        "3/3",
        "1/1",
        *when(BEGAN_AT).split(),
        "30",
        "s",
        "4.3",
        "s",
        "3",
    ]
    assert third.split()[:3] == ["bad", "failed", "1/3"]
    controller.rehearsed.clear()
    assert "forkbed rehearse boss-ops --steps FILE" in cli("rehearsals", "boss-ops").err


def test_a_rehearsal_is_shown_with_what_its_steps_wrote(cli: Cli, controller: FakeController) -> None:
    bad_check = CheckOutcome("ops", "tcp 2049", False, 120.0, "refused\x1b[2J")
    controller.rehearsed[1] = replace(FAILED, checks=(bad_check,))
    good = cli("rehearsals", "boss-ops", "--show", "try").out
    assert good.startswith("try  passed  ")
    assert "by root: forkbed rehearse boss-ops --steps up.yaml\n" in good
    assert good.endswith("New application wrote:\n  stopping\n  started\\x1b[2J\n")
    bad = cli("rehearsals", "boss-ops", "--show", "bad").out.splitlines()
    assert "  ops  tcp 2049  2 min  bad: refused\\x1b[2J" in bad
    assert "two rehearsals of one cut ended up with these differently:" in bad
    assert "  boss:/var/lib/app/seed" in bad
    assert "failed: step 2-boss: on boss ended with status 1 instead of 0" in bad
    controller.rehearsed.append(replace(REHEARSAL, name="twice", twice=True))
    same = cli("rehearsals", "boss-ops", "--show", "twice").out
    assert "two rehearsals of one cut ended up the same" in same


def test_a_prediction_without_parts_is_told() -> None:
    assert prediction_words(FreezePrediction(0, 0, 0, 0, 0)) == "about 0 ms"


def test_a_dry_run_prints_every_step(cli: Cli, controller: FakeController) -> None:
    answer = cli("promote", "try", "--dry-run")
    assert answer.out.splitlines() == [
        "boss-ops becomes generation 2, as try rehearsed it",
        "  1  maintenance on",
        "  2  cut boss-ops",
        "  3  step New application",
        "  4  hand over the networks",
    ]
    assert answer.err.startswith("it would stand still for about 4.3 s: cut 400 ms")
    controller.refusal = "it failed: a check"
    refused = cli("promote", "bad", "--dry-run").err.splitlines()
    assert refused[-2:] == ["refused: it failed: a check", "what to do: rehearse it again"]
    assert [call for call, _ in controller.calls] == ["promotion_plan"] * 2


def test_a_promotion_says_how_long_it_took(cli: Cli) -> None:
    answer = cli("promote", "try")
    assert (answer.status, answer.out) == (0, "")
    assert answer.err.splitlines() == [
        "boss-ops will stand still for about 4.3 s: cut 400 ms, restore 1.2 s, steps 2.5 s, checks 150 ms, "
        "switch 50 ms",
        "promote boss-ops: done in 1.2 s",
        "boss-ops is generation 2 now",
        "it stood still for 4.6 s; predicted were 4.3 s",
        "the generation before it is kept as boss-ops-1",
        "  go back: forkbed revert boss-ops",
    ]


def test_a_promotion_is_refused(cli: Cli, controller: FakeController) -> None:
    controller.refusal = "the manifest has changed since"
    answer = cli("promote", "try")
    assert answer.status == 4
    assert answer.err.startswith("forkbed: rehearsal try: the manifest has changed since")


def test_a_failed_promotion_says_where_the_attempt_is(cli: Cli, controller: FakeController) -> None:
    controller.failure = FAULT
    controller.attempts = (SystemId("sys-boss-ops-2"),)
    assert "attempt" not in cli("promote", "try").err  # it was not kept
    controller.make_fork("boss-ops-2", controller.systems()[0])
    expiring = replace(controller.fork_summaries["boss-ops-2"], expires_at=BEGAN_AT)
    controller.fork_summaries["boss-ops-2"] = expiring
    answer = cli("promote", "try")
    assert answer.status == 8
    assert f"the attempt is kept as the fork boss-ops-2 until {when(BEGAN_AT)}\n" in answer.err
    assert "forkbed discard boss-ops-2" in answer.err


def test_a_revert_that_would_lose_writes_is_unsafe(cli: Cli, controller: FakeController) -> None:
    controller.would_lose = True
    answer = cli("revert", "boss-ops")
    assert (answer.status, answer.out) == (7, "")
    assert answer.err.splitlines() == [
        f"forkbed: system boss-ops: {LOSS.brief}",
        *(f"  {line}" for line in LOSS.details),
        "what to do: give --accept-loss if it may be",
    ]
    assert cli("revert", "boss-ops", "--accept-loss").err.splitlines() == [
        "revert boss-ops: done in 1.2 s",
        "boss-ops is generation 1 again",
        "given up:",
        *(f"  {line}" for line in LOSS.details),
        "the generation that it left is kept as boss-ops-2: forkbed generations boss-ops",
    ]


def test_generations_are_a_table(cli: Cli) -> None:
    first, live, kept = cli("generations", "boss-ops").out.splitlines()
    assert first.split()[:4] == ["GENERATION", "STATE", "SYSTEM", "SINCE"]
    assert live.split()[:3] == ["2", "live", "boss-ops"]
    assert live.endswith("  generation 2: promoted try\\x1b[2J")
    for part in ("kept", "boss-ops-1", when(BEGAN_AT + 7 * 86400), "300 MiB", "640 MiB", "as it began"):
        assert part in kept


ANSWERED = [
    ("rehearsals", "boss-ops"),
    ("rehearsals", "boss-ops", "--show", "try"),
    ("promote", "try"),
    ("promote", "try", "--dry-run"),
    ("promote", "try", "--no-wait"),
    ("revert", "boss-ops"),
    ("generations", "boss-ops"),
    ("maintenance", "boss-ops", "on"),
]


def test_json_is_one_document(cli: Cli) -> None:
    for words in ANSWERED:
        answer = cli(*words, "--json")
        assert (answer.status, answer.err) == (0, ""), words
        assert isinstance(json.loads(answer.out), (dict, list))


def test_without_waiting_the_operation_is_printed(cli: Cli, controller: FakeController, steps: str) -> None:
    controller.auto_succeed = False
    assert cli("rehearse", "boss-ops", "--steps", steps, "--no-wait").out == "op1\n"
    assert cli("promote", "try", "--no-wait").out == "op2\n"
    assert cli("revert", "boss-ops", "--no-wait").out == "op3\n"


COMPLETED = [
    (["re"], ["rehearsals", "rehearse", "restart", "resume", "revert"]),
    (["rehearse", ""], ["boss-ops"]),
    (["rehearse", "boss-ops", "--steps", ""], ["__files__"]),
    (["rehearsals", "boss-ops", "--show", ""], ["bad", "try"]),
    (["promote", ""], ["bad", "try"]),
    (["promote", "try", "--d"], ["--discard-attempt", "--dry-run"]),
    (["diff", "boss-ops", ""], ["boss-ops"]),
    (["maintenance", "boss-ops", ""], ["off", "on"]),
    (["generations", "b"], ["boss-ops"]),
]


def test_completion(cli: Cli) -> None:
    for words, expected in COMPLETED:
        assert cli("__complete", *words).out.split() == expected, words
