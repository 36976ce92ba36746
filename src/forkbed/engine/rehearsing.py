"""Try an upgrade on forks of the system as it is now, and write down what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from forkbed.base.errors import OperationalError
from forkbed.core.diffs.records import MachineDifference
from forkbed.core.diffs.rules import Selection
from forkbed.core.diffs.systems import SystemDifference, summary
from forkbed.core.rehearsals.prediction import predict_freeze
from forkbed.core.rehearsals.records import Rehearsal, RehearsalStatus
from forkbed.core.snapshots.records import Snapshot, SnapshotStatus
from forkbed.engine.comparing import Comparison, unquiesced
from forkbed.engine.forking import Forking
from forkbed.engine.life import Life
from forkbed.engine.maintenance import has_hooks, maintain
from forkbed.engine.momentary import earlier_cut, momentary_cut
from forkbed.engine.replay import Replay
from forkbed.engine.upgrade_goals import REHEARSE_GOAL, RehearseGoal
from forkbed.ports.progress import Cancelled
from forkbed.ports.store import SystemRecord

_INTENTS = 10_000
_LISTED = 200


class Rehearsing:
    """One rehearsal."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._host = life.around.host
        self._store = life.around.store
        self._forking = Forking(life)
        self._goal: RehearseGoal = REHEARSE_GOAL.validate_python(life.operation.goal)

    def run(self) -> dict[str, object]:
        """Fork, replay, check, compare. The forks stay, also when a step failed: there is something to be seen."""
        goal = self._goal
        rehearsal = self._store.rehearsal(goal.rehearsal_id)
        assert rehearsal is not None
        try:
            self._fork()
        except (OperationalError, Cancelled) as error:
            if not self._life.around.stopping.is_set():
                self._save(replace(rehearsal, status=RehearsalStatus.FAILED, error=str(error) or "cancelled"))
                self._forking.undo(goal.forks, goal.snapshot_id)
            raise
        failure: OperationalError | None = None
        try:
            rehearsal = self._rehearse(rehearsal)
        except OperationalError as error:
            failure = error
            rehearsal = self._store.rehearsal(goal.rehearsal_id) or rehearsal
        except Cancelled:
            if not self._life.around.stopping.is_set():
                self._save(replace(rehearsal, status=RehearsalStatus.FAILED, error="cancelled"))
            raise
        status = RehearsalStatus.FAILED if failure is not None else RehearsalStatus.PASSED
        rehearsal = replace(
            rehearsal,
            status=status,
            error=str(failure) if failure is not None else "",
            ended_at=self._host.clock.now(),
        )
        self._save(rehearsal)
        if failure is not None:
            raise failure
        prediction = rehearsal.prediction
        return {
            "rehearsal": rehearsal.name,
            "passed": True,
            "predicted_s": prediction.total_s if prediction is not None else None,
        }

    def _fork(self) -> None:
        goal = self._goal
        snapshot = self._forking.known(goal.snapshot_id)
        if snapshot.status is SnapshotStatus.MAKING:
            self._forking.refuse_half_made("rehearsal")
            self._life.check_cancelled()
            snapshot = self._forking.fork_now(goal.forks, snapshot, cold=False, up=goal.up)
            # the memory has done its work; the disks stay, for whoever wants to compare with them
            self._host.cuts.remove_memory(snapshot.id)
        else:
            self._forking.bring_up(goal.forks, snapshot, cold=False, up=goal.up)

    def _rehearse(self, rehearsal: Rehearsal) -> Rehearsal:
        records = [self._forking.record(fork_id) for fork_id in self._goal.forks]
        first, *others = records
        with earlier_cut(self._life, first) as before:
            rehearsal = self._try(rehearsal, first, self._label(first, records))
            journal = self._store.journal(self._life.operation.id)
            prediction = predict_freeze(journal, rehearsal.outcomes, rehearsal.checks)
            rehearsal = replace(rehearsal, prediction=prediction)
            self._save(rehearsal)
            for other in others:
                self._replay(other, rehearsal, self._label(other, records))
            rehearsal = self._compare(rehearsal, before, first, others)
        self._save(rehearsal)
        return rehearsal

    def _compare(
        self, rehearsal: Rehearsal, before: Snapshot, first: SystemRecord, others: Sequence[SystemRecord]
    ) -> Rehearsal:
        """What the steps changed of the fork, as it was before them; and where forks of one cut came to differ."""
        with momentary_cut(self._life, first) as after:
            with self._life.step("compare", first.name) as progress:
                found = Comparison(self._host, before, after, Selection()).differences(progress)
                difference = SystemDifference(before.resolved.name, first.name, machines=found)
                warnings = (*rehearsal.warnings, *unquiesced((before, after)))
                rehearsal = replace(rehearsal, summary=summary(difference), warnings=warnings)
            for other in others:
                with (
                    momentary_cut(self._life, other) as twin,
                    self._life.step("compare", other.name) as progress,
                ):
                    found = Comparison(self._host, after, twin, Selection()).differences(progress)
                    rehearsal = replace(rehearsal, differing=_differing(found))
        return rehearsal

    def _try(self, rehearsal: Rehearsal, record: SystemRecord, label: str) -> Rehearsal:
        """Replay on the fork that counts; what came of each step is stored whatever happens."""
        replay = Replay(self._life, record, label=label)
        try:
            if has_hooks(record):
                record = maintain(self._life, record, on=True, label=label)
            replay.run(rehearsal.steps)
            replay.check()
            if has_hooks(record):
                maintain(self._life, record, on=False, label=label)
        finally:
            intents = self._intents(record)
            rehearsal = replace(
                rehearsal,
                outcomes=tuple(replay.outcomes),
                checks=tuple(replay.checks),
                intents=intents,
                warnings=_warnings(intents),
            )
            self._save(rehearsal)
        return rehearsal

    def _replay(self, record: SystemRecord, rehearsal: Rehearsal, label: str) -> None:
        replay = Replay(self._life, record, label=label)
        replay.run(rehearsal.steps)
        replay.check()

    def _intents(self, record: SystemRecord) -> int:
        return sum(
            len(self._host.recorder.intents(network.id, after=0, limit=_INTENTS))
            for network in record.resolved.networks
        )

    def _label(self, record: SystemRecord, records: Sequence[SystemRecord]) -> str:
        return f"{record.name}/" if len(records) > 1 else ""

    def _save(self, rehearsal: Rehearsal) -> None:
        self._store.save_rehearsal(rehearsal)


def _differing(found: Sequence[MachineDifference]) -> tuple[str, ...]:
    """Paths that two forks of one cut ended up with differently."""
    names = [
        f"{machine.machine}:{change.path}"
        for machine in found
        for volume in machine.volumes
        for system in volume.disk.file_systems
        for change in system.files
    ]
    return tuple(names[:_LISTED])


def _warnings(intents: int) -> tuple[str, ...]:
    if not intents:
        return ()
    return (
        f"{intents} tries to reach the world ended in the recorder (see `forkbed intents`): a replay cannot either",
    )
