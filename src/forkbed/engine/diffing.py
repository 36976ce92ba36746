"""Compare two related systems as they are now, from quiesced cuts of both."""

from __future__ import annotations

from contextlib import ExitStack

from pydantic import TypeAdapter

from forkbed.base.ids import SnapshotId
from forkbed.core.diffs.records import MachineDifference
from forkbed.core.diffs.rules import NOISE, Selection
from forkbed.core.diffs.systems import SystemDifference, within
from forkbed.core.snapshots.records import Snapshot
from forkbed.core.systems.changes import diff_systems
from forkbed.engine.comparing import Comparison, unquiesced
from forkbed.engine.forking import Forking
from forkbed.engine.life import Life
from forkbed.engine.momentary import momentary_cut
from forkbed.engine.upgrade_goals import DIFF_GOAL, DiffGoal
from forkbed.ports.store import SystemRecord

_DIFFERENCE = TypeAdapter(SystemDifference)
# The result is kept with its operation: what nobody reads to its end is not to fill the database.
_TEXTS = 2_000
_TEXT_CHARACTERS = 8 * 1024 * 1024


class Diffing:
    """One comparison."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._host = life.around.host
        self._forking = Forking(life)
        self._goal: DiffGoal = DIFF_GOAL.validate_python(life.operation.goal)

    def run(self) -> dict[str, object]:
        """What differs: a `SystemDifference` as JSON."""
        goal = self._goal
        sides = (
            (self._forking.record(goal.left), goal.left_snapshot),
            (self._forking.record(goal.right), goal.right_snapshot),
        )
        selection = Selection(paths=goal.paths, noise=() if goal.everything else NOISE)
        with ExitStack() as stack:
            left, right = (self._cut(stack, record, snapshot_id) for record, snapshot_id in sides)
            comparison = Comparison(self._host, left, right, selection, with_base=goal.base)
            with self._life.step("compare", f"{goal.left_name} {goal.right_name}") as progress:
                machines = comparison.differences(progress)
                paths = _changed_paths(machines) if goal.texts else []
                texts = comparison.texts(paths[:_TEXTS], progress) if paths else ()
        texts, left_out = within(texts, _TEXT_CHARACTERS)
        difference = SystemDifference(
            left=goal.left_name,
            right=goal.right_name,
            base="the layers that both stand on" if goal.base else "",
            declared=tuple(diff_systems(left.resolved, right.resolved)),
            machines=machines,
            texts=texts,
            problems=(*unquiesced((left, right)), *_left_out(left_out + len(paths[_TEXTS:]))),
        )
        result: dict[str, object] = _DIFFERENCE.dump_python(difference, mode="json")
        return result

    def _cut(self, stack: ExitStack, record: SystemRecord, snapshot_id: str) -> Snapshot:
        if snapshot_id:
            return self._forking.known(SnapshotId(snapshot_id))
        return stack.enter_context(momentary_cut(self._life, record))


def _left_out(files: int) -> list[str]:
    return [f"the texts of {files} more files are left out: ask for them by their paths"] if files else []


def _changed_paths(machines: tuple[MachineDifference, ...]) -> list[str]:
    return sorted(
        {
            change.path
            for machine in machines
            for volume in machine.volumes
            for system in volume.disk.file_systems
            for change in system.files
        }
    )
