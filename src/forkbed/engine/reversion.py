"""Go back to the generation that was live before: at once, and never past writes that nobody gave up."""

from __future__ import annotations

from dataclasses import replace

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.diffs.records import MachineDifference
from forkbed.core.diffs.rules import Selection
from forkbed.core.snapshots.records import Snapshot, SnapshotStatus
from forkbed.core.systems.goal import Goal, Wanted
from forkbed.core.systems.planner import ALIVE
from forkbed.core.systems.spec import ResolvedMachine
from forkbed.core.systems.view import Power
from forkbed.engine.awakening import awaken
from forkbed.engine.comparing import Comparison
from forkbed.engine.cutting import machine_powers
from forkbed.engine.forking import Forking
from forkbed.engine.life import Life
from forkbed.engine.maintenance import maintain
from forkbed.engine.momentary import momentary_cut
from forkbed.engine.planloop import PlanLoop
from forkbed.engine.promotion import (
    carry_through,
    change_places,
    committed,
    hand_base_over,
    keep_base,
    take_up,
    withdraw,
)
from forkbed.engine.saving import asleep, forget_saved, saved_of
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
            keep_base(self._life, self._wake(kept), self._goal.base_id)
        live, kept = carry_through(self._life, self._take_over)
        return {"generation": live.generation, "kept": kept.name, "lost": list(lost)}

    def _take_over(self) -> tuple[SystemRecord, SystemRecord]:
        """The commit, and all that follows it, as far as it is not done yet."""
        assert self._life.operation.system_id is not None
        live = self._forking.record(self._life.operation.system_id)
        kept = self._forking.record(self._goal.kept)
        if live.generation != self._goal.generation:
            words = f"generation {kept.generation}: reverted from generation {live.generation}"
            live, kept = change_places(self._life, live, kept, words)
        withdraw(self._life, kept)
        self._go_on(live)
        take_up(self._life, live, kept)
        hand_base_over(self._life, live, self._goal.base_id)
        forget_saved(self._host, self._store, kept.id)
        if live.maintenance:
            live = maintain(self._life, live, on=False)
        return live, kept

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

    def _wake(self, kept: SystemRecord) -> SystemRecord:
        """The kept generation in memory, standing still. What it was saved as stays until the revert is done."""
        waking = self._goal.waking
        if waking is None:
            self._refuse_saved_meanwhile(kept)
            return kept
        if kept.resolved != waking.resolved:
            if not asleep(self._host, kept, self._forking.known(waking.snapshot_id)):
                return kept
            with self._life.step("wake", kept.name):
                # `changed_at` stays: what is in memory then is what was saved
                kept = replace(kept, resolved=waking.resolved, wanted=waking.goal.wanted, up=True)
                self._store.save_system(kept)
        PlanLoop(self._life, kept.id, waking.goal, label=f"{kept.name}/").run()
        return kept

    def _refuse_saved_meanwhile(self, kept: SystemRecord) -> None:
        saved = saved_of(self._store, kept)
        if saved is not None and asleep(self._host, kept, saved):
            raise OperationalError(
                Kind.CONFLICT,
                f"system {kept.name}",
                "went from memory to disk after the revert was asked for",
                "ask for it again",
            )

    def _go_on(self, live: SystemRecord) -> None:
        """Its clocks stood still: they are stepped before anything asks whether it is ready."""
        powers = machine_powers(self._host, live.resolved)
        machines = [
            machine
            for machine in live.resolved.machines
            if live.wanted.get(machine.name) is Wanted.RUNNING and powers[machine.id] in ALIVE
        ]
        still = [machine for machine in machines if powers[machine.id] is Power.PAUSED]
        goal = Goal({machine.name: Wanted.PAUSED for machine in still}, networks=True)
        PlanLoop(committed(self._life), live.id, goal).run()
        for machine in still:
            self._host.guests.forget(
                machine.id
            )  # connections did not outlive the time in which it stood still
            with self._life.step("resume", machine.name):
                self._host.hypervisor.resume(machine.id)
        waiters = self._life.around.waiters
        for awakening in [waiters.submit(self._awaken, live, machine) for machine in machines]:
            awakening.result()

    def _awaken(self, live: SystemRecord, machine: ResolvedMachine) -> None:
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
