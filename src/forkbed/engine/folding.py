"""Shorten the chains of a system's volumes, while its machines run or while they do not."""

from __future__ import annotations

from typing import assert_never

from forkbed.core.systems.spec import ResolvedMachine, ResolvedVolume
from forkbed.core.volumes.layers import Commit, Fold, Pull
from forkbed.engine.branch_goals import FOLD_GOAL
from forkbed.engine.effects import Effects
from forkbed.engine.life import Life
from forkbed.ports.progress import Progress
from forkbed.ports.store import SystemRecord

SHORTEST = 3
"""What a person's `fold` aims at: the active layer, one below it, the image."""
LONGEST = 8
"""A chain longer than this is folded by itself."""
AFTER_FOLDING = 5
"""As long as such a chain is left, so that it is not folded after every snapshot."""


def fold_system(life: Life, record: SystemRecord) -> dict[str, object]:
    """Fold until every chain is short enough or nothing may be folded; how many folds there were."""
    goal = FOLD_GOAL.validate_python(life.operation.goal)
    folding = _Folding(life, record)
    count = sum(
        folding.fold(machine, volume, goal.limit)
        for machine in record.resolved.machines
        for volume in machine.volumes
    )
    return {"folds": count}


class _Folding:
    def __init__(self, life: Life, record: SystemRecord) -> None:
        self._life = life
        self._host = life.around.host
        self._effects = Effects(self._host, life.around.store, record.resolved)

    def fold(self, machine: ResolvedMachine, volume: ResolvedVolume, limit: int) -> int:
        count = 0
        self._adopt(machine, volume)
        while (fold := self._host.volume_cuts.plan_fold(volume.id, limit)) is not None:
            self._life.check_cancelled()
            with self._life.step("fold", f"{machine.name}/{volume.name}") as progress:
                self._do(machine, volume, fold, progress)
            count += 1
        return count

    def _do(self, machine: ResolvedMachine, volume: ResolvedVolume, fold: Fold, progress: Progress) -> None:
        serial = self._host.volumes.attachment(volume).serial
        if serial not in self._host.cuts.disks_in_use(machine.id):
            self._host.volume_cuts.fold_offline(volume.id, fold, progress)
            self._effects.define(machine)
            return
        match fold:
            case Commit(top=top, into=into):
                self._host.cuts.commit_layer(machine.id, serial, top, into, progress)
            case Pull(keep=keep):
                self._host.cuts.pull_layers(machine.id, serial, keep, progress)
            case _:
                assert_never(fold)
        self._adopt(machine, volume)

    def _adopt(self, machine: ResolvedMachine, volume: ResolvedVolume) -> None:
        """Record the chain that a running machine uses: a fold may have ended after its controller did."""
        serial = self._host.volumes.attachment(volume).serial
        in_use = self._host.cuts.disks_in_use(machine.id).get(serial)
        if in_use and tuple(in_use) != tuple(self._host.volume_cuts.chain(volume.id)):
            self._host.cuts.flush(machine.id, serial)  # recording it removes the layers that were folded
            self._host.volume_cuts.record_fold(volume.id, in_use)
            self._effects.define(machine)
