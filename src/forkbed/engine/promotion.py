"""Let a rehearsed upgrade take over: replay it on the system as it is now, which stands still meanwhile.

Nothing can be lost: from the cut to the commit the original writes nothing, so what the new generation began with is
all that was ever acknowledged; and the original gets no way out again once the new one may have it.

The commit is the moment in which the original is given up (`Cut.give_up`, durable). Before it, every failure lets the
original go on; after it, everything goes forward, also in the next controller.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import replace
from typing import TypeVar

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import SnapshotId
from forkbed.core.rehearsals.records import Rehearsal
from forkbed.core.rehearsals.refusals import promotion_refusal
from forkbed.core.snapshots.records import Snapshot
from forkbed.core.systems.generations import exchange
from forkbed.core.systems.goal import Goal, Wanted
from forkbed.engine.cutting import CutTerms, cut_system, drop_snapshot, take_back
from forkbed.engine.forking import Forking
from forkbed.engine.life import Life
from forkbed.engine.maintenance import has_hooks, maintain
from forkbed.engine.momentary import kept_disks
from forkbed.engine.planloop import PlanLoop
from forkbed.engine.replay import Replay
from forkbed.engine.saving import hand_cut_over
from forkbed.engine.sidecars import write_sidecars
from forkbed.engine.upgrade_goals import PROMOTE_GOAL, PromoteGoal
from forkbed.ports.cuts import Cut
from forkbed.ports.progress import Cancelled
from forkbed.ports.store import RevisionRecord, SystemRecord

KEPT_FOR_S = 7 * 24 * 3600.0
_LOOK = "the original runs on; look at the attempt, which is kept as a fork"
_LOOK_NEXT_TIME = "the original runs on; without --discard-attempt the attempt is kept to be looked at"
_LONGEST_HOLD_S = 6 * 3600.0
_GO_FORWARD_S = 120.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0
T = TypeVar("T")


class Promotion:
    """One promotion."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._around = life.around
        self._host = life.around.host
        self._store = life.around.store
        self._forking = Forking(life)
        self._goal: PromoteGoal = PROMOTE_GOAL.validate_python(life.operation.goal)
        self._freeze_s: float | None = None  # once it is over

    def run(self) -> dict[str, object]:
        """Return when the new generation has taken over. Raises when it has not, and the original goes on."""
        goal = self._goal
        assert self._life.operation.system_id is not None
        live = self._forking.record(self._life.operation.system_id)
        attempt = self._store.system_by_id(goal.attempt)
        rehearsal = self._store.rehearsal(goal.rehearsal_id)
        if rehearsal is None:
            raise OperationalError(
                Kind.NOT_FOUND, f"rehearsal {goal.rehearsal_id}", "is gone", "rehearse again"
            )
        took_over = attempt is not None and attempt.kept_of == live.id
        if not took_over and not self._host.cuts.was_given_up(goal.snapshot_id):
            self._attempt(live, rehearsal)
        return carry_through(self._life, lambda: self._go_forward(rehearsal))

    # before the commit: all failures let the original go on

    def _attempt(self, live: SystemRecord, rehearsal: Rehearsal) -> None:
        snapshot = self._forking.known(self._goal.snapshot_id)
        interrupted = True
        try:
            self._forking.refuse_half_made(f"promotion of {rehearsal.name}")
            interrupted = False
            self._life.check_cancelled()
            self._refuse(live, rehearsal)
            if has_hooks(live):
                live = maintain(self._life, live, on=True)
            self._replay_on_cut(live, snapshot, rehearsal)
        except (OperationalError, Cancelled):
            if not self._around.stopping.is_set():
                self._clean_up(rehearsal, keep=self._goal.keep_attempt and not interrupted)
            raise

    def _refuse(self, live: SystemRecord, rehearsal: Rehearsal) -> None:
        refusal = promotion_refusal(rehearsal, live.resolved)
        if refusal is not None:
            raise refusal.error(rehearsal.name)

    def _replay_on_cut(self, live: SystemRecord, snapshot: Snapshot, rehearsal: Rehearsal) -> None:
        limit_s = self._goal.max_freeze_s
        # what can be made while the original still runs
        prepared = self._forking.begin_preparing([self._goal.attempt]) if self._goal.up else []
        for made in prepared:
            made.result()
        with self._life.step("cut", live.name) as progress:
            progress.tell("the original stands still from here on")
            terms = CutTerms(hold=True, lasting=False, hold_limit_s=limit_s or _LONGEST_HOLD_S)
            snapshot, cut = cut_system(self._host, self._store, live, snapshot, terms)
        if cut is None:
            raise OperationalError(
                Kind.CONFLICT,
                f"system {live.name}",
                "does not run, so there is nothing to take over from",
                f"`forkbed start {live.name}` first",
            )
        keeping = self._around.waiters.submit(self._forking.complete, snapshot, cut)
        try:
            attempts, up = [self._goal.attempt], self._goal.up
            self._forking.bring_up(attempts, snapshot, cold=False, up=up, prepared=prepared)
            snapshot = keeping.result()
            attempt = self._forking.record(self._goal.attempt)
            ends_at = snapshot.cut_at + limit_s if limit_s is not None else None
            remedy = _LOOK if self._goal.keep_attempt else _LOOK_NEXT_TIME
            replay = Replay(self._life, attempt, ends_at=ends_at, remedy=remedy)
            replay.run(rehearsal.steps)
            replay.check()
            keep_base(self._life, attempt, self._goal.base_id)
            self._give_up(cut, ends_at)
        except Exception:
            cut.resume()
            wait([keeping])  # what it records must not come after what cleans up
            raise

    def _give_up(self, cut: Cut, ends_at: float | None) -> None:
        """The commit."""
        self._life.check_cancelled()
        if ends_at is not None and self._host.clock.now() > ends_at:
            raise OperationalError(
                Kind.CONFLICT,
                self._life.operation.subject,
                "stood still for as long as was allowed",
                "allow more with --max-freeze, or make the steps quicker",
            )
        self._around.boundary("commit: begun")
        cut.give_up()
        self._around.boundary("commit: done")

    def _clean_up(self, rehearsal: Rehearsal, *, keep: bool) -> None:
        """The original goes on already; let its users back, and keep the attempt to be studied, or nothing of it."""
        assert self._life.operation.system_id is not None
        live = self._forking.record(self._life.operation.system_id)
        if live.maintenance:
            maintain(self._life, live, on=False)
        attempt = self._store.system_by_id(self._goal.attempt)
        base = self._store.snapshot(self._goal.base_id)
        if base is not None:
            take_back(self._host, self._store, base)
        if keep and attempt is not None and attempt.up:
            # everything it needs it has: the cut's memory has been used
            now = self._host.clock.now()
            message = f"attempt to promote {rehearsal.name}"
            self._store.save_system(replace(attempt, message=message, expires_at=now + KEPT_FOR_S))
            snapshot = self._store.snapshot(self._goal.snapshot_id)
            if snapshot is not None:
                drop_snapshot(self._host, self._store, snapshot)
            return
        self._forking.undo([self._goal.attempt], self._goal.snapshot_id)

    # from the commit on: only forward

    def _go_forward(self, rehearsal: Rehearsal) -> dict[str, object]:
        """What is left to do of it, after a crash or a failure too."""
        assert self._life.operation.system_id is not None
        live = self._forking.record(self._life.operation.system_id)
        attempt = self._forking.record(self._goal.attempt)
        if attempt.kept_of != live.id:
            live, attempt = self._commit(live, attempt, rehearsal)
        return self._take_over(live, attempt, rehearsal)

    def _commit(
        self, live: SystemRecord, attempt: SystemRecord, rehearsal: Rehearsal
    ) -> tuple[SystemRecord, SystemRecord]:
        """Store that the two have changed places."""
        attempt = replace(attempt, maintenance=live.maintenance)  # its users were off when it was cut
        words = f"generation {attempt.generation}: promoted {rehearsal.name}"
        return change_places(self._life, live, attempt, words)

    def _take_over(self, live: SystemRecord, kept: SystemRecord, rehearsal: Rehearsal) -> dict[str, object]:
        goal = self._goal
        snapshot = self._store.snapshot(goal.snapshot_id)
        withdraw(self._life, kept)
        take_up(self._life, live, kept)
        if self._freeze_s is None and snapshot is not None and snapshot.cut_at is not None:
            self._freeze_s = self._host.clock.now() - snapshot.cut_at
        if live.maintenance:
            live = maintain(self._life, live, on=False)
        hand_base_over(self._life, live, goal.base_id)
        if snapshot is not None:
            self._keep_cut(snapshot, kept)
        self._host.cuts.forget_given_up(goal.snapshot_id)
        prediction = rehearsal.prediction
        return {
            "generation": live.generation,
            "freeze_s": self._freeze_s,
            "predicted_s": prediction.total_s if prediction is not None else None,
            "kept": kept.name,
        }

    def _keep_cut(self, cut: Snapshot, kept: SystemRecord) -> None:
        """Its memory goes onto the disk now: nobody waits any more, as they would have during the cut."""
        with self._life.step("save-memory", kept.name):
            lasts = self._host.cuts.make_lasting(cut.id)
        if lasts:
            hand_cut_over(self._host, self._store, cut, kept)
        else:  # the host went down in between
            drop_snapshot(self._host, self._store, cut)


def change_places(
    life: Life, live: SystemRecord, other: SystemRecord, words: str
) -> tuple[SystemRecord, SystemRecord]:
    """Store that `other` is the live generation and the live one is kept; the two as they are from now on."""
    host, store = life.around.host, life.around.store
    now = host.clock.now()
    both = exchange(live.resolved, other.resolved, generation=live.generation, at=now)
    coming = replace(
        live,
        resolved=both.live,
        wanted={name: _awake(want) for name, want in other.wanted.items()},
        up=True,
        generation=other.generation,
        maintenance=other.maintenance,
        changed_at=now,
    )
    leaving = replace(
        other,
        name=both.kept.name,
        resolved=both.kept,
        wanted={name: _asleep(want) for name, want in live.wanted.items()},
        up=True,
        generation=live.generation,
        maintenance=live.maintenance,
        changed_at=now,
        message=f"generation {live.generation} of {live.name}",
        expires_at=now + KEPT_FOR_S,
        kept_of=live.id,
        kept_at=now,
    )
    newest = store.revisions(live.id)[-1]
    revision: RevisionRecord = replace(
        newest,
        number=both.live.revision,
        accepted_at=now,
        requester=life.operation.requester,
        resolved=both.live,
        changes=(words,),
    )
    with life.step("switch", live.name), life.around.accepting:
        store.replace_systems([leaving, coming], revision)
    write_sidecars(host, store, coming)
    return coming, leaving


def keep_base(life: Life, coming: SystemRecord, base_id: SnapshotId) -> None:
    """Keep a generation's disks as it takes over, so that a revert can tell what it wrote since."""
    name = f"generation-{coming.generation}"
    for former in life.around.store.snapshots(coming.id):
        if former.name == name and former.id != base_id:
            drop_snapshot(life.around.host, life.around.store, former)
    kept_disks(life, coming, base_id, name)


def hand_base_over(life: Life, live: SystemRecord, base_id: SnapshotId) -> None:
    """The base of the generation that took over belongs to the system now."""
    host, store = life.around.host, life.around.store
    base = store.snapshot(base_id)
    if base is None or base.system_id == live.id:
        return
    for former in store.snapshots(live.id):
        if former.automatic and former.name.startswith("generation-"):
            drop_snapshot(host, store, former)
    store.save_snapshot(replace(base, system_id=live.id, resolved=live.resolved))


def carry_through(life: Life, work: Callable[[], T]) -> T:
    """Do what follows a commit, and may be done again: there is no way back, so nothing that passes may end it.

    Raises what it fails of for longer than two minutes, or at once when the operation is cancelled.
    """
    clock, given_up_at, pause_s = life.around.host.clock, math.inf, _FIRST_PAUSE_S
    while True:
        try:
            return work()
        except OperationalError:  # the journal tells of which step
            now = clock.now()
            given_up_at = min(given_up_at, now + _GO_FORWARD_S)
            if now >= given_up_at or life.cancelled.is_set() or life.around.stopping.is_set():
                raise
            clock.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def withdraw(life: Life, kept: SystemRecord) -> None:
    """Make it true on the host that nothing of the kept one leads out; before `take_up` of the live one."""
    goal = Goal(kept.wanted, networks=True)
    PlanLoop(committed(life), kept.id, goal, label=f"{kept.name}/").run()


def take_up(life: Life, live: SystemRecord, kept: SystemRecord) -> None:
    """Make it true on the host that the live one has the way out, and runs. Who is connected stays so."""
    left = {network.spec.name: network for network in kept.resolved.networks}
    for network in live.resolved.networks:
        if network.spec.name in left:
            life.around.host.networks.hand_over(left[network.spec.name], network)
    PlanLoop(committed(life), live.id, Goal(live.wanted, networks=True)).run()


def committed(life: Life) -> Life:
    """The same for what nobody can cancel any more."""
    return Life(life.around, life.operation, threading.Event())


def _asleep(want: Wanted) -> Wanted:
    return Wanted.PAUSED if want is Wanted.RUNNING else want


def _awake(want: Wanted) -> Wanted:
    return Wanted.RUNNING if want is Wanted.PAUSED else want
