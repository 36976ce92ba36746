"""Go back to the generation that was live before: at once, and never past writes that nobody gave up."""

from __future__ import annotations

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.diffs.records import MachineDifference
from forkbed.core.diffs.rules import Selection
from forkbed.core.snapshots.records import Snapshot, SnapshotStatus
from forkbed.core.systems.goal import Wanted
from forkbed.engine.awakening import awaken
from forkbed.engine.comparing import Comparison
from forkbed.engine.forking import Forking
from forkbed.engine.life import Life
from forkbed.engine.momentary import momentary_cut
from forkbed.engine.promotion import bring_forward, change_places, hand_base_over, keep_base
from forkbed.engine.upgrade_goals import REVERT_GOAL, RevertGoal
from forkbed.ports.store import SystemRecord

_LISTED = 40


class Reversion:
    """One way back."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._host = life.around.host
        self._store = life.around.store
        self._forking = Forking(life)
        self._goal: RevertGoal = REVERT_GOAL.validate_python(life.operation.goal)

    def run(self) -> dict[str, object]:
        """Return when the kept generation is live again. UNSAFE with a list if that would lose writes."""
        assert self._life.operation.system_id is not None
        live = self._forking.record(self._life.operation.system_id)
        kept = self._forking.record(self._goal.kept)
        lost: tuple[str, ...] = ()
        if live.generation != self._goal.generation:
            self._life.check_cancelled()
            lost = self._refuse_loss(live)
            keep_base(self._life, kept, self._goal.base_id)
            words = f"generation {kept.generation}: reverted from generation {live.generation}"
            live, kept = change_places(self._life, live, kept, words)
        bring_forward(self._life, live, kept)
        hand_base_over(self._life, live, self._goal.base_id)
        self._awaken(live)
        return {"generation": live.generation, "kept": kept.name, "lost": list(lost)}

    def _refuse_loss(self, live: SystemRecord) -> tuple[str, ...]:
        """What the present generation wrote since it took over; UNSAFE unless that was given up."""
        base = self._base(live)
        if base is None:
            lost: tuple[str, ...] = ("nobody knows what: how its disks were when it took over is not kept",)
        else:
            with momentary_cut(self._life, live) as now, self._life.step("compare", live.name) as progress:
                lost = _written(Comparison(self._host, base, now, Selection()).differences(progress))
        if lost and not self._goal.accept_loss:
            raise OperationalError(
                Kind.UNSAFE,
                f"system {live.name}",
                f"generation {live.generation} has written since it took over, and a revert would lose that",
                "look at it, carry over what counts, then say --accept-loss",
                details=lost,
            )
        return lost

    def _base(self, live: SystemRecord) -> Snapshot | None:
        for snapshot in self._store.snapshots(live.id):
            if (
                snapshot.name == f"generation-{live.generation}"
                and snapshot.status is SnapshotStatus.COMPLETE
            ):
                return snapshot
        return None

    def _awaken(self, live: SystemRecord) -> None:
        """Its clocks stood still."""
        for machine in live.resolved.machines:
            if live.wanted.get(machine.name) is Wanted.RUNNING:
                with self._life.step("awaken", machine.name) as progress:
                    awaken(self._host, self._store, live.name, machine, progress)


def _written(found: tuple[MachineDifference, ...]) -> tuple[str, ...]:
    lines = []
    for machine in found:
        for volume in machine.volumes:
            place = f"{machine.machine}/{volume.volume}"
            lines += [f"{place}: {problem}" for problem in volume.disk.problems]
            for system in volume.disk.file_systems:
                lines += [f"{place}: {problem}" for problem in system.problems]
                lines += [f"{place}: {change.path}" for change in system.files]
    if len(lines) > _LISTED:
        return (*lines[:_LISTED], f"and {len(lines) - _LISTED} more")
    return tuple(lines)
