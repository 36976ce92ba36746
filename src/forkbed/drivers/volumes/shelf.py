"""The directory of volumes: sidecars and layer files, which of them count, and how they come and go.

The order that makes a crash harmless: a sidecar names a file before the file gets its name, and names it until the
file is gone (among what leaves: files that the volume does not stand on, not yet or no longer). So a layer that no
sidecar names was never left by us: somebody lost its sidecar, and it is told, never removed. A volume or cut that is
given up has its sidecar renamed first (`*.gone`), which works on a full disk too; then the layers go that no other
sidecar names, and the renamed sidecar last. `sweep` carries on where a crash interrupted that.

A volume's sidecar whose active file is missing was never finished and counts as absent, unless other layers of the
volume are there: then the active one was taken away, and whoever uses the volume is told.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import SnapshotId, VolumeId
from forkbed.core.volumes.layers import Chain, Layer, own_layers, survey, unneeded
from forkbed.drivers.durable import (
    put_in_place,
    read_files,
    remove_durably,
    sweep_temporaries,
    sync_directory,
    write_durably,
)
from forkbed.drivers.volumes import layer_files
from forkbed.drivers.volumes.records import (
    CUT_SUFFIX,
    LAYER_SUFFIX,
    VOLUME_SUFFIX,
    CutRecord,
    LayerFile,
    Prepared,
    Record,
    VolumeRecord,
    cut_sidecar_name,
    decode_cut,
    decode_volume,
    encode,
    is_layer_name,
    plain,
    sidecar_name,
)

_GONE_SUFFIX = ".gone"
_log = structlog.get_logger(__name__)

Keeper = VolumeId | tuple[SnapshotId, VolumeId]
"""Who keeps layers: a volume, or the cut of one."""


class Shelf:
    """What lies in one directory. `lock` is held by whoever looks in order to write."""

    def __init__(self, directory: Path) -> None:
        """Make the directory if it is missing, and finish what a controller that died left undone."""
        self.directory = directory.absolute()
        self.lock = threading.RLock()
        self._worked_on: set[VolumeId] = set()
        self._empty = layer_files.EmptyLayers()
        directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        sweep_temporaries(directory)
        try:
            self.sweep()
        except OperationalError as error:
            # A broken sidecar is told by whatever asks for volumes; it must not keep the controller from starting.
            _log.warning("volumes.not-swept", subject=error.subject, reason=error.brief)

    # looking

    def records(self) -> list[VolumeRecord]:
        """The records of all volumes, also of those that were never finished; by id."""
        return [decode_volume(*found) for found in read_files(self.directory, f"*{VOLUME_SUFFIX}")]

    def volumes(self) -> list[VolumeRecord]:
        """The records of all volumes that are there, by id."""
        return [record for record in self.records() if not self._is_absent(record)]

    def cuts(self) -> list[CutRecord]:
        """The records of all kept cuts."""
        return [decode_cut(*found) for found in read_files(self.directory, f"*{CUT_SUFFIX}")]

    def record(self, volume_id: VolumeId) -> VolumeRecord | None:
        """The volume's record, finished or not; None if it has none."""
        found = list(read_files(self.directory, f"{plain(volume_id)}{VOLUME_SUFFIX}"))
        return decode_volume(*found[0]) if found else None

    def volume(self, volume_id: VolumeId) -> VolumeRecord | None:
        """The record of a volume that is there. FAULT if its active file was taken away."""
        record = self.record(volume_id)
        if record is None or self._is_absent(record):
            return None
        if not record.active.exists():
            raise OperationalError(
                Kind.FAULT,
                record.subject,
                f"its active layer {record.active.path} is missing, while layers below it are there",
                "put the file back; `forkbed rollback` or `--destroy` gives its data up",
            )
        return record

    def existing(self, volume_id: VolumeId) -> VolumeRecord:
        """`volume`, NOT_FOUND if there is none."""
        record = self.volume(volume_id)
        if record is None:
            raise OperationalError(
                Kind.NOT_FOUND,
                f"volume {volume_id}",
                "there is no such volume on this host",
                "`forkbed up` makes the volumes that are missing",
            )
        return record

    def settled(self, volume_id: VolumeId, doing: str) -> VolumeRecord:
        """`existing`, for one that nothing is going on with. CONFLICT with an unfinished cut, BUSY in a fold."""
        record = self.existing(volume_id)
        if record.prepared is not None:
            raise OperationalError(
                Kind.CONFLICT,
                record.subject,
                f"cannot {doing}: its cut for snapshot {record.prepared.snapshot_id} is not finished",
                "wait for the snapshot or fork that makes it; `forkbed serve` finishes it when it starts",
            )
        self.refuse_worked_on(record)
        return record

    def cut(self, snapshot_id: SnapshotId, volume_id: VolumeId) -> CutRecord | None:
        """The record of a kept cut."""
        found = list(read_files(self.directory, cut_sidecar_name(volume_id, snapshot_id)))
        return decode_cut(*found[0]) if found else None

    def chains(self) -> Mapping[Keeper, Chain]:
        """All chains of the host; that of a volume begins with the overlay of its unfinished cut."""
        chains: dict[Keeper, Chain] = {}
        for record in self.records():
            chains[record.volume_id] = Chain(tuple(layer.path for layer in record.attached))
        for cut in self.cuts():
            chains[cut.snapshot_id, cut.owner.volume_id] = Chain(cut.paths, kept=True)
        return chains

    def survey(self) -> Mapping[Keeper, tuple[Layer, ...]]:
        """All chains, with what may be done to their layers."""
        chains = self.chains()
        images = {path for chain in chains.values() for path in chain.layers if not self._is_ours(path)}
        return survey(chains, images)

    def own_bytes(self) -> Mapping[Keeper, int]:
        """What the layers take on disk that only one volume or cut stands on."""
        return {
            keeper: sum(layer_files.allocated_bytes(path) for path in paths if self._is_ours(path))
            for keeper, paths in own_layers(self.chains()).items()
        }

    def stray_layers(self) -> list[Path]:
        """Layers that no sidecar names: somebody lost it, since no crash of ours leaves one. Never removed."""
        named = {file.path for record in self._all_records() for file in record.files}
        found = self.directory.glob(f"*{LAYER_SUFFIX}")
        return sorted(path for path in found if is_layer_name(path.name) and str(path) not in named)

    def fresh_layer(self, volume_id: VolumeId, tag: str = "") -> LayerFile:
        """A name for a new layer of the volume that nothing has, nor has left on disk."""
        named = {file.path for record in self._all_records() for file in record.files}
        stem = ".".join([plain(volume_id), *([plain(tag)] if tag else [])])
        number = 1
        while True:
            path = self.directory / f"{stem}{f'.{number}' if number > 1 else ''}{LAYER_SUFFIX}"
            if str(path) not in named and not path.exists():
                return LayerFile(str(path))
            number += 1

    # writing

    def write(self, record: Record) -> None:
        """Have the record's sidecar on disk. FAULT if it cannot be written; then the old one stands."""
        write_durably(self.directory / sidecar_name(record), encode(record, self.directory))

    def write_with_layer(self, record: VolumeRecord, below: LayerFile | None) -> None:
        """Write the record of a new volume and make its active layer, empty, on `below`.

        The layer is complete, under a name for the time being, before the sidecar names it: no space is a FAULT that
        changes nothing.
        """
        layer = record.active
        with self._empty.beside(layer, below, record.owner.size_bytes, record.subject) as temporary:
            self.write(record)
            with _as_fault(record.subject, "its layer cannot be put in place"):
                put_in_place(temporary, Path(layer.path))

    def add_layer(self, record: VolumeRecord, layer: LayerFile, below: LayerFile) -> None:
        """Make an empty layer on `below` for a volume, which the caller then records as standing on it.

        Until then the sidecar counts it among what leaves, so that a crash between leaves nothing for good.
        """
        with self._empty.beside(layer, below, record.owner.size_bytes, record.subject) as temporary:
            self.write(replace(record, leaving=(*record.leaving, layer)))
            with _as_fault(record.subject, "its new layer cannot be put in place"):
                put_in_place(temporary, Path(layer.path))

    def give_up(self, names: Iterable[str]) -> bool:
        """Remove these sidecars with the layers that nothing else stands on; whether there were any."""
        found = False
        with _as_fault(str(self.directory), "a sidecar cannot be removed"):
            for name in names:
                path = self.directory / name
                if path.exists():
                    self._finish_giving_up()  # an earlier one of that name must not be written over
                    path.rename(path.with_name(path.name + _GONE_SUFFIX))
                    found = True
            sync_directory(self.directory)
        self._finish_giving_up()
        return found

    def clear_leaving(self, record: VolumeRecord) -> VolumeRecord:
        """Remove the files that the record gives up and nothing stands on; then it no longer names them."""
        if not record.leaving:
            return record
        self._remove_unneeded(record.leaving)
        cleared = replace(record, leaving=())
        self.write(cleared)
        return cleared

    def sweep(self) -> None:
        """Finish what was interrupted: sidecars given up, files that leave, volumes never made on their origin."""
        with self.lock:
            self._finish_giving_up()
            for record in self.records():
                self.clear_leaving(record)
                if record.origin is not None and self._is_absent(record):
                    # it would keep the layers of its origin for ever; whoever still wants it makes it again
                    self.give_up([sidecar_name(record)])
            if strays := self.stray_layers():
                _log.warning("volumes.stray-layers", paths=[str(path) for path in strays])

    @contextmanager
    def working_on(self, volume_id: VolumeId) -> Iterator[None]:
        """Meanwhile nobody else changes the volume's chain: `settled` refuses."""
        with self.lock:
            self._worked_on.add(volume_id)
        try:
            yield
        finally:
            with self.lock:
                self._worked_on.discard(volume_id)

    def refuse_worked_on(self, record: VolumeRecord) -> None:
        """BUSY while somebody is `working_on` the volume."""
        if record.volume_id in self._worked_on:
            raise OperationalError(
                Kind.BUSY, record.subject, "its layers are being folded", "try again when that is over"
            )

    def _finish_giving_up(self) -> None:
        gone = self._gone()
        if not gone:
            return
        self._remove_unneeded([file for _, record in gone for file in record.files])
        for path, _ in gone:
            with _as_fault(str(path), "cannot be removed"):
                remove_durably(path)

    def _remove_unneeded(self, files: Sequence[LayerFile]) -> None:
        ours = [file.path for file in files if self._is_ours(file.path)]
        with _as_fault(str(self.directory), "a layer cannot be removed"):
            for path in unneeded(ours, self.chains().values()):
                Path(path).unlink(missing_ok=True)
            sync_directory(self.directory)

    def _gone(self) -> list[tuple[Path, Record]]:
        volumes = read_files(self.directory, f"*{VOLUME_SUFFIX}{_GONE_SUFFIX}")
        cuts = read_files(self.directory, f"*{CUT_SUFFIX}{_GONE_SUFFIX}")
        return [
            *((path, decode_volume(path, data)) for path, data in volumes),
            *((path, decode_cut(path, data)) for path, data in cuts),
        ]

    def _all_records(self) -> list[Record]:
        return [*self.records(), *self.cuts(), *(record for _, record in self._gone())]

    def _is_absent(self, record: VolumeRecord) -> bool:
        mine = f"{record.volume_id}."
        return not any(
            Path(path).exists()
            for path in record.paths
            if path == record.active.path or (self._is_ours(path) and Path(path).name.startswith(mine))
        )

    def _is_ours(self, path: str) -> bool:
        file = Path(path)
        return file.parent == self.directory and is_layer_name(file.name)


@contextmanager
def _as_fault(subject: str, brief: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OperationalError(
            Kind.FAULT, subject, f"{brief}: {error.strerror}", "look at the disk and at who owns the files"
        ) from error


def prepared_for(record: VolumeRecord | None, snapshot_id: SnapshotId) -> Prepared | None:
    """The volume's unfinished cut, if it is that snapshot's."""
    if record is None or record.prepared is None or record.prepared.snapshot_id != snapshot_id:
        return None
    return record.prepared
