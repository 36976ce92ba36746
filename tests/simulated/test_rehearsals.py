"""A rehearsal tells what the upgrade changed: not what was in flight, but also what was done before a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from forkbed.core.diffs.systems import SystemDifference
from forkbed.drivers.simulated.world import UNWRITTEN
from forkbed.engine.promoting import DiffOptions, RehearseOptions, StepsBundle
from tests.simulated.installation import PERSON, Died
from tests.simulated.test_branches import machine
from tests.simulated.test_upgrades import STEPS, on_disk, rehearse, upgraded

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def test_what_was_in_flight_is_no_work_of_the_upgrade(tmp_path: Path) -> None:
    pair = upgraded(tmp_path)
    machine(pair, "pair", "boss").memory[UNWRITTEN + "log"] = "not written out yet when the fork was cut"
    rehearse(pair, STEPS.partition("  - name: application")[0])
    [rehearsal] = pair.controller.rehearsals("pair")
    assert [line.partition(":")[0] for line in rehearsal.summary] == ["ops/root"]
    assert on_disk(pair, "try", "boss")["log"], "it was written since"


def test_what_a_killed_rehearsal_did_is_compared_too(tmp_path: Path) -> None:
    i = upgraded(tmp_path)

    def die(name: str) -> None:
        if name == "step application: begun":
            raise Died

    i.restart(die)
    try:
        i.controller.rehearse("pair", StepsBundle("upgrade.yaml", STEPS), RehearseOptions("try"), PERSON)
        i.controller.dispatcher.wait_idle(60)
    except Died:
        pass
    i.restart()
    i.settle()
    [rehearsal] = i.controller.rehearsals("pair")
    assert rehearsal.status == "passed"
    assert any(line.startswith("ops/root") for line in rehearsal.summary), "done before the kill"
    assert [s.name for s in i.store.snapshots() if s.name.startswith(("look-", "before-"))] == []


def test_the_texts_of_very_many_files_are_left_out_and_counted(tmp_path: Path) -> None:
    pair = upgraded(tmp_path)
    rehearse(pair)
    written = machine(pair, "try", "ops").in_use["root"][0]
    pair.world.disks.layers[written].blocks.update({f"f{number}": "new" for number in range(2_050)})
    operation = pair.ended(pair.controller.diff("pair", "try", DiffOptions(texts=True), PERSON))
    difference: SystemDifference = TypeAdapter(SystemDifference).validate_python(operation.result)
    assert difference.problems == ("the texts of 53 more files are left out: ask for them by their paths",)
    assert 1_900 < sum(len(volume.texts) for volume in difference.texts) <= 2_000
