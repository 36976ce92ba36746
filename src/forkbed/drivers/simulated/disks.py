"""What simulated disks hold: layers of named blocks, and who stands on which.

Every block counts for 64 KiB. A path that is no layer is a file of somebody else's (an image) and holds nothing.
Callers hold the world's lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from forkbed.base.ids import SnapshotId, VolumeId
from forkbed.core.volumes.layers import Chain, own_layers, survey, unneeded
from forkbed.core.volumes.layers import Layer as SharedLayer
from forkbed.ports.volumes import VolumeCutView

BLOCK_BYTES = 64 * 1024

Keeper = VolumeId | tuple[SnapshotId, VolumeId]
"""Who keeps layers: a volume, or the cut of one."""


@dataclass(slots=True)
class Layer:
    """Blocks by name, over those of the layer `below` ("": there is none)."""

    below: str
    blocks: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Disk:
    """A volume's layers. `origin` is the file that it was made on; `prepared` an overlay that awaits its cut."""

    active: str
    origin: str
    prepared: tuple[SnapshotId, str] | None = None


@dataclass(slots=True)
class KeptCut:
    """A cut that was kept; `top` is the layer that was written to until then."""

    view: VolumeCutView
    top: str


@dataclass(slots=True)
class Disks:
    """All layers of the host."""

    layers: dict[str, Layer] = field(default_factory=dict)
    volumes: dict[VolumeId, Disk] = field(default_factory=dict)
    cuts: dict[tuple[SnapshotId, VolumeId], KeptCut] = field(default_factory=dict)
    made: int = 0

    def add_layer(self, volume_id: VolumeId, below: str) -> str:
        """A new empty layer; its path."""
        self.made += 1
        path = f"/simulated/{volume_id}.{self.made}.qcow2"
        self.layers[path] = Layer(below)
        return path

    def chain(self, path: str) -> tuple[str, ...]:
        """The file and what it stands on, lowest last."""
        result: list[str] = []
        while path:
            result.append(path)
            path = self.layers[path].below if path in self.layers else ""
        return tuple(result)

    def content(self, path: str) -> dict[str, str]:
        """The blocks that are read through the layer."""
        result: dict[str, str] = {}
        for layer in reversed(self.chain(path)):
            if layer in self.layers:
                result |= self.layers[layer].blocks
        return result

    def chains(self) -> Mapping[Keeper, Chain]:
        """What each volume and each kept cut consists of; an overlay that awaits its cut counts to the volume."""
        tops: dict[Keeper, str] = {
            volume_id: disk.prepared[1] if disk.prepared else disk.active
            for volume_id, disk in self.volumes.items()
        }
        result = {keeper: Chain(self.chain(top)) for keeper, top in tops.items()}
        return result | {key: Chain(self.chain(cut.top), kept=True) for key, cut in self.cuts.items()}

    def survey(self, volume_id: VolumeId) -> tuple[SharedLayer, ...]:
        """The volume's chain with what may be done to its layers."""
        chains = self.chains()
        images = {path for chain in chains.values() for path in chain.layers if path not in self.layers}
        return survey(chains, images)[volume_id]

    def allocated_bytes(self) -> Mapping[str, int]:
        """What each layer takes."""
        return {path: BLOCK_BYTES * len(layer.blocks) for path, layer in self.layers.items()}

    def own_bytes(self) -> Mapping[Keeper, int]:
        """What the layers take that only one volume or cut stands on, by it."""
        allocated = self.allocated_bytes()
        own = own_layers(self.chains())
        return {keeper: sum(allocated.get(path, 0) for path in paths) for keeper, paths in own.items()}

    def sweep(self) -> None:
        """Remove the layers that nobody stands on."""
        for path in unneeded(self.layers, self.chains().values()):
            del self.layers[path]

    def merge_down(self, top: str, into: str) -> None:
        """Write the blocks of `top` into `into`."""
        self.layers[into].blocks |= self.layers[top].blocks

    def pull_up(self, active: str, between: tuple[str, ...]) -> None:
        """Have in `active` what is read through it down to the last of `between`."""
        blocks: dict[str, str] = {}
        for path in reversed((active, *between)):
            if path in self.layers:
                blocks |= self.layers[path].blocks
        self.layers[active].blocks = blocks
