"""Folds of overlay volumes: which comes next, doing it on files at rest, and recording what one left.

Every half-way state shows the same content. A commit writes to `into` only what `top`, right above it, shows anyway;
a pull writes to the active layer only what lies below it. What was written is on disk before the sidecar leaves a
layer out, and the layer goes after that. Headers are rewritten along the way, but nothing of ours follows them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import SnapshotId, VolumeId
from forkbed.core.systems.steps import Effect
from forkbed.core.volumes.layers import Fold, fold_refusal, folded, is_shortened, plan_fold
from forkbed.drivers.volumes import layer_files
from forkbed.drivers.volumes.block_jobs import fold_files
from forkbed.drivers.volumes.records import VolumeRecord
from forkbed.drivers.volumes.shelf import Shelf
from forkbed.ports.progress import Progress


class OverlayFolding:
    """The part of `ports.volumes.VolumeCuts` that is about chains."""

    _shelf: Shelf

    def chain(self, volume_id: VolumeId) -> tuple[str, ...]:
        """The volume's files, active layer first, the image last."""
        return self._shelf.existing(volume_id).paths

    def cut_chain(self, snapshot_id: SnapshotId, volume_id: VolumeId) -> tuple[str, ...]:
        """The files of a kept cut, top first, the image last."""
        for cut in self._shelf.cuts():
            if (cut.snapshot_id, cut.owner.volume_id) == (snapshot_id, volume_id):
                return cut.paths
        raise OperationalError(
            Kind.NOT_FOUND,
            f"volume {volume_id}",
            "is not kept in that snapshot",
            "look at `forkbed snapshots`",
        )

    def own_bytes(self) -> Mapping[VolumeId, int]:
        """Of each volume, what is allocated by layers that nothing else stands on."""
        with self._shelf.lock:
            own = self._shelf.own_bytes()
            return {record.volume_id: own[record.volume_id] for record in self._shelf.volumes()}

    def plan_fold(self, volume_id: VolumeId, limit: int) -> Fold | None:
        """The next fold that brings the chain to at most `limit` files. None too while a cut is not finished."""
        with self._shelf.lock:
            record = self._shelf.existing(volume_id)
            if record.prepared is not None:
                return None
            sizes = {path: layer_files.allocated_bytes(path) for path in record.paths}
            return plan_fold(self._shelf.survey()[volume_id], limit, sizes)

    def fold_offline(self, volume_id: VolumeId, fold: Fold, progress: Progress) -> Effect:
        """Do the fold with nobody using the files. See `ports.volumes`.

        ALREADY if the chain is as the fold would leave it. CONFLICT if it would write to what something else stands
        on, or if a machine uses the files. Cancelling it, as any failure, leaves the chain as it was.
        """
        shelf = self._shelf
        with ExitStack() as stack:
            with shelf.lock:
                record = shelf.settled(volume_id, "be folded")
                refusal = fold_refusal(shelf.survey()[volume_id], fold)
                if refusal:
                    raise OperationalError(
                        Kind.CONFLICT, record.subject, f"cannot be folded: {refusal}", "plan the fold anew"
                    )
                left = folded(record.paths, fold)
                if left == record.paths:
                    return Effect.ALREADY
                stack.enter_context(shelf.working_on(volume_id))
            fold_files(record.layers, fold, subject=record.subject, progress=progress)
            with shelf.lock:
                self._leave_out(record, left)
        return Effect.CHANGED

    def record_fold(self, volume_id: VolumeId, in_use: Sequence[str]) -> Effect:
        """Record the chain that a fold left. See `ports.volumes`. CONFLICT while a cut is not finished."""
        shelf = self._shelf
        with shelf.lock:
            record = shelf.settled(volume_id, "have a fold recorded")
            if not is_shortened(record.paths, in_use):
                raise OperationalError(
                    Kind.FAULT,
                    record.subject,
                    "its machine does not use the recorded layers with some left out: "
                    f"{', '.join(in_use) or 'none'}, not {', '.join(record.paths)}",
                    "stop and start the machine: it then uses what is recorded",
                )
            if tuple(in_use) == record.paths:
                return Effect.ALREADY
            self._leave_out(record, in_use)
            return Effect.CHANGED

    def _leave_out(self, record: VolumeRecord, left: Sequence[str]) -> None:
        _sync(record, left)
        stay = tuple(layer for layer in record.layers if layer.path in left)
        go = tuple(layer for layer in record.layers if layer.path not in left)
        record = replace(record, layers=stay, leaving=(*record.leaving, *go))
        self._shelf.write(record)
        self._shelf.clear_leaving(record)


def _sync(record: VolumeRecord, paths: Sequence[str]) -> None:
    """Have on disk what a fold wrote into the layers that stay, before any that it read from may go."""
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OperationalError(
                Kind.FAULT, record.subject, f"its layer {path} cannot be synced: {error.strerror}"
            ) from error
