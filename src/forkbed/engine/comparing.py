"""Compare the disks of two cuts, or of two cuts with what they have in common."""

from __future__ import annotations

from collections.abc import Sequence

from forkbed.base.ids import VolumeId
from forkbed.core.diffs.records import MachineDifference, VolumeDifference
from forkbed.core.diffs.rules import Selection
from forkbed.core.diffs.systems import VolumeTexts
from forkbed.core.snapshots.records import Snapshot
from forkbed.core.systems.spec import ResolvedVolume
from forkbed.engine.host import Host
from forkbed.ports.disks import DiskLayer, DiskQuestion, DiskVersion
from forkbed.ports.progress import Progress

_LIVE = "a cut with memory keeps it there"


class Comparison:
    """Two snapshots of related systems, machine by machine and volume by volume."""

    def __init__(
        self, host: Host, left: Snapshot, right: Snapshot, selection: Selection, *, with_base: bool = False
    ) -> None:
        """`with_base`: hold both against the layers that they share, rather than right against left."""
        self._host = host
        self._left = left
        self._right = right
        self._selection = selection
        self._with_base = with_base

    def differences(self, progress: Progress) -> tuple[MachineDifference, ...]:
        """What differs of every machine that both have."""
        found = []
        for name, pairs in self._pairs().items():
            volumes = []
            for left, right in pairs:
                progress.check_cancelled()
                progress.tell(f"comparing {name}/{left.name}")
                difference = self._host.disks.compare(self._question(left, right), f"{name}/{left.name}")
                volumes.append(VolumeDifference(left.name, difference))
            found.append(MachineDifference(name, tuple(volumes)))
        return tuple(found)

    def texts(self, paths: Sequence[str], progress: Progress) -> tuple[VolumeTexts, ...]:
        """These paths as text, in each volume that has one of them."""
        found = []
        for name, pairs in self._pairs().items():
            for left, right in pairs:
                progress.check_cancelled()
                subject = f"{name}/{left.name}"
                texts = self._host.disks.texts(self._question(left, right), subject, paths)
                if texts:
                    found.append(VolumeTexts(name, left.name, tuple(texts)))
        return tuple(found)

    def _pairs(self) -> dict[str, list[tuple[ResolvedVolume, ResolvedVolume]]]:
        """By machine, the volumes of the same name."""
        rights = {machine.name: machine for machine in self._right.resolved.machines}
        pairs = {}
        for machine in self._left.resolved.machines:
            other = rights.get(machine.name)
            if other is not None:
                theirs = {volume.name: volume for volume in other.volumes}
                pairs[machine.name] = [
                    (volume, theirs[volume.name]) for volume in machine.volumes if volume.name in theirs
                ]
        return pairs

    def _question(self, left: ResolvedVolume, right: ResolvedVolume) -> DiskQuestion:
        mine, theirs = self._chain(self._left, left.id), self._chain(self._right, right.id)
        shared = _common(mine, theirs) if self._with_base else ()
        return DiskQuestion(
            left=_version(mine, self._image_format(left)),
            right=_version(theirs, self._image_format(right)),
            base=_version(shared, self._image_format(left)) if shared else None,
            selection=self._selection,
        )

    def _chain(self, snapshot: Snapshot, volume_id: VolumeId) -> tuple[str, ...]:
        return self._host.volume_cuts.cut_chain(snapshot.id, volume_id)

    def _image_format(self, volume: ResolvedVolume) -> tuple[str, str]:
        """The image's file and its format; every other layer is qcow2."""
        if volume.image_id is None:
            return "", "qcow2"
        file = self._host.images.file(volume.image_id)
        return str(file.path), file.format


def unquiesced(cuts: Sequence[Snapshot]) -> list[str]:
    """Machines whose guests may hold writes that the comparison does not see."""
    return [
        f"{cut.resolved.name}/{machine.name} did not write out what it held: {machine.note or _LIVE}"
        for cut in cuts
        for machine in cut.machines
        if machine.frozen_at is not None and not machine.quiesced
    ]


def _common(left: tuple[str, ...], right: tuple[str, ...]) -> tuple[str, ...]:
    """The layers below that both stand on."""
    for position in range(len(left)):
        if left[position:] == right[-len(left[position:]) :]:
            return left[position:]
    return ()


def _version(chain: tuple[str, ...], image: tuple[str, str]) -> DiskVersion:
    path, image_format = image
    return DiskVersion(tuple(DiskLayer(layer, image_format if layer == path else "qcow2") for layer in chain))
