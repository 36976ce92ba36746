"""Rehearse, promote, revert on the simulated host: nothing is lost, and a kill at every boundary ends well."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.operations.records import Operation, OperationStatus
from forkbed.core.systems.spec import UplinkKind
from forkbed.core.systems.view import Power
from forkbed.engine.promoting import DiffOptions, PromoteOptions, RehearseOptions, StepsBundle
from forkbed.engine.requests import PowerAction
from tests.simulated.installation import (
    PERSON,
    TWO_MACHINES,
    Installation,
    Killed,
    killed_at_every_boundary,
    succeeded,
)
from tests.simulated.test_branches import held, machine, write

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

UPGRADED = TWO_MACHINES.replace(
    "    publish: [",
    "    maintenance: {on: [true], off: [true]}\n    checks: [{exec: works, timeout: 2s}]\n    publish: [",
)
STEPS = """
version: 1
steps:
  - name: schema
    machine: ops
    run: write schema two
  - name: application
    machine: boss
    push: [{path: /srv/app, content: new}]
    run: write app two
"""
FAILING = STEPS + "  - {name: broken, machine: boss, run: 'false'}\n"


def rehearse(i: Installation, text: str = STEPS, *, twice: bool = False) -> Operation:
    bundle = StepsBundle("upgrade.yaml", text)
    return i.ended(i.controller.rehearse("pair", bundle, RehearseOptions("try", twice), PERSON))


def promote(i: Installation, options: PromoteOptions | None = None) -> Operation:
    return i.ended(i.controller.promote("try", options or PromoteOptions(), PERSON))


def revert(i: Installation, *, accept_loss: bool = False) -> Operation:
    return i.ended(i.controller.revert("pair", accept_loss=accept_loss, request=PERSON))


def on_disk(i: Installation, system: str, name: str) -> dict[str, str]:
    record = i.store.system(system)
    assert record is not None
    volume = record.resolved.machine(name).volumes[0]
    content = i.world.disks.content(i.world.disks.volumes[volume.id].active)
    return {key: value for key, value in content.items() if not key.startswith("setup/")}


@pytest.fixture
def pair(tmp_path: Path) -> Installation:
    return upgraded(tmp_path)


def upgraded(path: Path) -> Installation:
    installation = Installation(path)
    assert succeeded(installation.up(UPGRADED))
    write(installation, "pair", "ops", "before")
    return installation


def check_uplinks(i: Installation) -> None:
    """Exactly one generation may have a way out, and on the host no more than one has."""
    assert len(i.world.ways_out) <= 1
    leading_out = [
        record.name
        for record in i.store.systems()
        for network in record.resolved.networks
        if network.spec.uplink is UplinkKind.NAT
    ]
    assert leading_out == ["pair"]


def test_a_rehearsal_tells_what_an_upgrade_would_do(pair: Installation) -> None:
    operation = rehearse(pair)
    assert succeeded(operation)
    [rehearsal] = pair.controller.rehearsals("pair")
    assert [outcome.name for outcome in rehearsal.outcomes] == ["schema", "application"]
    assert [check.good for check in rehearsal.checks] == [True]
    assert rehearsal.prediction is not None and rehearsal.prediction.total_s > 0
    assert any("ops/root" in line for line in rehearsal.summary)
    assert on_disk(pair, "try", "ops") == {"count": "before", "schema": "two"}
    assert on_disk(pair, "pair", "ops") == {"count": "before"}, "the original knows nothing of it"


def test_a_promotion_that_leaves_nothing_leaves_what_its_steps_push(pair: Installation) -> None:
    assert succeeded(rehearse(pair))
    write(pair, "pair", "boss", "unlucky")
    pair.world.bad_probes.add("works")
    assert promote(pair, PromoteOptions(keep_attempt=False)).status is OperationStatus.FAILED
    pair.world.bad_probes.clear()
    assert succeeded(promote(pair))


def test_twice_names_what_differs_for_no_reason(pair: Installation) -> None:
    assert succeeded(rehearse(pair, twice=True))
    [rehearsal] = pair.controller.rehearsals("pair")
    assert rehearsal.differing == ()


def test_a_rehearsal_that_fails_may_not_be_promoted(pair: Installation) -> None:
    operation = rehearse(pair, FAILING)
    assert operation.status is OperationStatus.FAILED
    [rehearsal] = pair.controller.rehearsals("pair")
    assert rehearsal.outcomes[-1].exit_status == 1
    with pytest.raises(OperationalError, match="it failed"):
        promote(pair)
    assert pair.controller.promotion_plan("try", PromoteOptions()).refusal


def test_a_promotion_carries_every_write_over(pair: Installation) -> None:
    rehearse(pair)
    write(pair, "pair", "ops", "written since")
    before = pair.store.system("pair")
    operation = promote(pair)
    assert succeeded(operation)
    assert on_disk(pair, "pair", "ops") == {"count": "written since", "schema": "two"}
    assert on_disk(pair, "pair", "boss")["app"] == "two"
    after = pair.store.system("pair")
    assert before is not None and after is not None
    assert (after.generation, after.id, after.maintenance) == (2, before.id, False)
    assert [m.spec.publish for m in after.resolved.machines] == [
        m.spec.publish for m in before.resolved.machines
    ]
    check_uplinks(pair)
    assert machine(pair, "pair@1", "ops").power is Power.PAUSED
    assert machine(pair, "pair", "ops").power is Power.RUNNING
    assert [g.number for g in pair.controller.generations("pair")] == [2, 1]
    assert [s.name for s in pair.controller.systems()] == ["pair", "try"]
    assert pair.controller._garbage.find() == ()


def test_a_promotion_whose_check_fails_leaves_the_original_as_it_was(pair: Installation) -> None:
    rehearse(pair)
    pair.world.bad_probes.add("works")
    operation = promote(pair)
    assert operation.status is OperationStatus.FAILED
    assert held(pair, "pair", "ops") == ("before", "before")
    assert machine(pair, "pair", "ops").power is Power.RUNNING
    record = pair.store.system("pair")
    assert record is not None and not record.maintenance and record.generation == 1
    check_uplinks(pair)
    assert on_disk(pair, "pair@2", "ops")["schema"] == "two", "the attempt is there to be studied"
    pair.world.bad_probes.clear()
    assert succeeded(promote(pair))


def test_an_attempt_is_not_kept_if_nobody_wants_it(pair: Installation) -> None:
    rehearse(pair)
    pair.world.bad_probes.add("works")
    promote(pair, PromoteOptions(keep_attempt=False))
    assert pair.store.system("pair@2") is None
    assert pair.controller._garbage.find() == ()


def test_a_changed_manifest_is_rehearsed_anew(pair: Installation) -> None:
    rehearse(pair)
    pair.up(UPGRADED.replace("8080:80", "9090:80"))
    with pytest.raises(OperationalError, match="has changed since"):
        promote(pair)


def test_a_freeze_that_takes_too_long_is_refused_or_given_up(pair: Installation) -> None:
    rehearse(pair)
    with pytest.raises(OperationalError, match="are allowed") as refused:
        promote(pair, PromoteOptions(max_freeze_s=0.001))
    assert "--max-freeze" in refused.value.remedy
    plan = pair.controller.promotion_plan("try", PromoteOptions(max_freeze_s=0.001))
    assert plan.refusal and plan.remedy == refused.value.remedy


def test_a_system_that_does_not_run_is_started_not_rehearsed_again(pair: Installation) -> None:
    rehearse(pair)
    pair.power("pair", PowerAction.STOP)
    with pytest.raises(OperationalError, match="no machine of the system runs") as refused:
        promote(pair)
    assert refused.value.remedy == "`forkbed start pair` first"


def test_a_revert_refuses_to_lose_writes(pair: Installation) -> None:
    rehearse(pair)
    promote(pair)
    write(pair, "pair", "ops", "after the promotion")
    refused = revert(pair)
    assert refused.status is OperationStatus.FAILED
    assert refused.error is not None and "ops/root: /count" in str(refused.error)
    assert held(pair, "pair", "ops")[0] == "after the promotion"
    assert succeeded(revert(pair, accept_loss=True))
    assert on_disk(pair, "pair", "ops") == {"count": "before"}
    assert machine(pair, "pair", "ops").memory["count"] == "before"
    assert on_disk(pair, "pair@2", "ops")["count"] == "after the promotion", "what was reverted is kept"
    check_uplinks(pair)


def test_a_revert_of_an_untouched_generation_is_free(pair: Installation) -> None:
    rehearse(pair)
    promote(pair)
    assert succeeded(revert(pair))
    assert [g.number for g in pair.controller.generations("pair")] == [1, 2]
    assert succeeded(revert(pair)), "and back again"


def test_users_are_let_back_into_what_was_kept_with_them_off(pair: Installation) -> None:
    rehearse(pair)
    promote(pair)
    revert(pair)
    hooks = [e.key for e in pair.store.journal(pair.store.operations(limit=1)[0].id) if "hook" in e.key]
    record = pair.store.system("pair")
    assert record is not None and not record.maintenance
    assert hooks, "its users were off when it was replaced"
    revert(pair)
    newest = pair.store.journal(pair.store.operations(limit=1)[0].id)
    assert not [e for e in newest if "hook" in e.key], "and in when it was left"


def test_a_kept_generation_expires_with_an_event(pair: Installation) -> None:
    rehearse(pair)
    promote(pair)
    pair.world.clock.sleep(8 * 24 * 3600)
    pair.controller.supervisor.look()
    pair.settle()
    assert pair.store.system("pair@1") is None
    [told] = [e for e in pair.store.events(system="pair") if e.kind == "generation.expired"]
    assert told.attributes == {"generation": 1, "kept": "pair@1"}
    assert pair.world.memories == {}
    assert pair.controller._garbage.find() == ()


def test_what_differs_between_a_system_and_its_fork(pair: Installation) -> None:
    rehearse(pair)
    operation = pair.ended(pair.controller.diff("pair", "try", DiffOptions(), PERSON))
    assert succeeded(operation)
    assert "/schema" in str(operation.result)
    with pytest.raises(OperationalError, match="not related"):
        pair.up(TWO_MACHINES.replace("system: pair", "system: other").replace("8080", "8081"))
        pair.controller.diff("pair", "other", DiffOptions(), PERSON)


Action = Callable[[Installation], object]
STORIES: dict[str, tuple[list[Action], Action]] = {
    "rehearse": ([], rehearse),
    "promote": ([rehearse], promote),
    "revert": (
        [rehearse, promote, lambda i: write(i, "pair", "ops", "later")],
        lambda i: revert(i, accept_loss=True),
    ),
}


def begun(path: Path, story: str) -> Installation:
    installation = upgraded(path)
    for step in STORIES[story][0]:
        step(installation)
    return installation


@pytest.mark.parametrize("story", STORIES)
def test_a_kill_at_every_boundary_finishes_or_leaves_all_as_it_was(story: str, tmp_path: Path) -> None:
    def begin(path: Path) -> Installation:
        return begun(path, story)

    for killed in killed_at_every_boundary(tmp_path, begin, STORIES[story][1], check_uplinks):
        check(story, killed)


def check(story: str, killed: Killed) -> None:
    installation, done = killed.installation, killed.done
    check_uplinks(installation)
    record = installation.store.system("pair")
    assert record is not None
    assert not record.maintenance, killed.boundary
    assert machine(installation, "pair", "ops").power is Power.RUNNING, killed.boundary
    words = on_disk(installation, "pair", "ops")
    if story == "promote":
        assert words == ({"count": "before", "schema": "two"} if done else {"count": "before"}), (
            killed.boundary
        )
        assert record.generation == (2 if done else 1)
    if story == "revert":
        assert record.generation == (1 if done else 2)
    if story == "rehearse":
        assert words == {"count": "before"}
    assert installation.controller._garbage.find() == (), killed.boundary


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("story", ["promote", "revert"])
def test_a_fault_at_any_call_loses_nothing(story: str, lasting: bool, tmp_path: Path) -> None:
    for number, call in worth_a_fault(tmp_path / "count", story):
        installation = begun(fresh(tmp_path / str(number)), story)
        fail_at(number, installation, lasting=lasting)
        with suppress(OperationalError):  # it may be refused at once
            STORIES[story][1](installation)
        installation.world.on_call = None
        check_goes_on(story, installation, f"{number}: {call}")


def test_the_live_generation_waits_until_the_one_before_leads_nowhere(pair: Installation) -> None:
    rehearse(pair)
    committed: list[str] = []

    def no_netfilter(name: str, subject: str) -> None:
        check_uplinks(pair)
        if name == "cuts.give_up":
            committed.append(subject)
        elif committed and name == "networks.ensure":
            raise OperationalError(Kind.FAULT, "host", "no netfilter")

    former = set(pair.world.ways_out)

    def none_for_the_former(name: str, subject: str) -> None:
        if name == "networks.ensure" and subject in former:
            raise OperationalError(Kind.FAULT, "host", "no netfilter")

    pair.world.on_call = no_netfilter
    assert promote(pair).status is OperationStatus.FAILED
    record = pair.store.system("pair")
    assert record is not None and record.generation == 2
    pair.world.on_call = none_for_the_former
    for _ in range(3):
        look_and_settle(pair)
    assert pair.world.ways_out == former
    pair.world.on_call = lambda *_: check_uplinks(pair)
    check_goes_on("promote", pair, "networks.ensure")


def fresh(path: Path) -> Path:
    path.mkdir()
    return path


def worth_a_fault(path: Path, story: str) -> list[tuple[int, str]]:
    """The first and the last call of each kind that the story makes, by their numbers."""
    installation = begun(fresh(path), story)
    calls: list[str] = []
    installation.world.on_call = lambda name, subject: calls.append(name)
    STORIES[story][1](installation)
    chosen = {call: number for number, call in enumerate(calls)}.items()
    first = {call: number for number, call in reversed(list(enumerate(calls)))}.items()
    return sorted({(number, call) for call, number in (*chosen, *first)})


def fail_at(number: int, i: Installation, *, lasting: bool) -> None:
    """Have the call with that number fail, and all of its kind for a minute after it if the fault is `lasting`."""
    passed = itertools.count()
    failing: dict[str, float] = {}

    def call(name: str, subject: str) -> None:
        check_uplinks(i)
        now = i.world.clock.now()
        if next(passed) == number:
            failing[name] = now + 60 if lasting else now
        if failing.get(name, 0.0) >= now:
            if not lasting:
                failing.clear()
            raise OperationalError(Kind.FAULT, subject or "host", f"{name} failed")

    i.world.on_call = call


def look_and_settle(i: Installation) -> None:
    """A minute later, whatever is found amiss is put right."""
    i.world.clock.sleep(61)
    i.controller.supervisor.look()
    assert i.controller.dispatcher.wait_idle(60)


def check_goes_on(story: str, i: Installation, call: str) -> None:
    """One generation serves its clients, now or as soon as somebody has looked; nothing of a user's is gone."""
    for _ in range(5):
        look_and_settle(i)
    check_uplinks(i)
    record = i.store.system("pair")
    assert record is not None
    assert {network.id for network in record.resolved.networks} == i.world.ways_out, call
    for name in ("ops", "boss"):
        found = machine(i, "pair", name)
        assert (found.power, found.frozen) == (Power.RUNNING, False), call
    words = on_disk(i, "pair", "ops")
    assert words["count"] == ("later" if (story, record.generation) == ("revert", 2) else "before"), call
