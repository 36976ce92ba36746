"""`ports.volumes`, `ports.networks`, `ports.sidecars` and `ports.contents` in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from blake3 import blake3

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import NetworkId, SystemId, VolumeId
from forkbed.core.systems.spec import ResolvedMachine, ResolvedNetwork, ResolvedVolume, UplinkKind
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import NetworkView, VolumeView
from forkbed.drivers.simulated.world import SimulatedWorld
from forkbed.ports.hypervisor import DiskAttachment
from forkbed.ports.volumes import BaseImage


class SimulatedVolumes:
    """Disks that have a size and no content."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world

    def volumes(self) -> Sequence[VolumeView]:
        """All volumes."""
        self._world.call("volumes.volumes")
        with self._world.lock:
            return list(self._world.volumes.values())

    def create(
        self, system_id: SystemId, machine: ResolvedMachine, volume: ResolvedVolume, image: BaseImage | None
    ) -> Effect:
        """Make it unless it is there."""
        self._world.call("volumes.create", f"{machine.name}/{volume.name}")
        backing = image.image_id if image else ""
        made = VolumeView(
            volume.id, system_id, volume.size_bytes, machine.id, machine.name, volume.name, backing
        )
        with self._world.lock:
            known = self._world.volumes.get(volume.id)
            if known is not None and known != made:
                raise OperationalError(
                    Kind.CONFLICT, f"volume {volume.id}", "exists with another size or backing"
                )
            self._world.volumes[volume.id] = made
            return Effect.CHANGED if known is None else Effect.ALREADY

    def grow(self, volume: ResolvedVolume) -> Effect:
        """Enlarge it."""
        self._world.call("volumes.grow", volume.name)
        with self._world.lock:
            known = self._world.volumes[volume.id]
            if volume.size_bytes < known.size_bytes:
                raise OperationalError(Kind.UNSAFE, f"volume {volume.id}", "would lose data by shrinking")
            self._world.volumes[volume.id] = replace(known, size_bytes=volume.size_bytes)
            return Effect.CHANGED if known.size_bytes != volume.size_bytes else Effect.ALREADY

    def remove(self, volume_id: VolumeId) -> Effect:
        """Forget it."""
        self._world.call("volumes.remove", volume_id)
        with self._world.lock:
            return Effect.CHANGED if self._world.volumes.pop(volume_id, None) else Effect.ALREADY

    def attachment(self, volume: ResolvedVolume) -> DiskAttachment:
        """A path that leads nowhere."""
        serial = "root" if volume.name == "root" else f"vol-{volume.name}"
        return DiskAttachment(serial[:20], f"/simulated/{volume.id}.qcow2", "qcow2")


class SimulatedNetworks:
    """Segments that are there or not."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world

    def networks(self) -> Sequence[NetworkView]:
        """All networks."""
        self._world.call("networks.networks")
        with self._world.lock:
            return list(self._world.networks.values())

    def ensure(
        self,
        system_id: SystemId,
        system_name: str,
        network: ResolvedNetwork,
        members: Sequence[ResolvedMachine],
        digest: str,
    ) -> Effect:
        """Have it as described."""
        self._world.call("networks.ensure", network.spec.name)
        wanted = NetworkView(network.id, system_id, digest, True)
        with self._world.lock:
            known = self._world.networks.get(network.id)
            self._world.networks[network.id] = wanted
        return Effect.ALREADY if known == wanted else Effect.CHANGED

    def remove(self, network_id: NetworkId) -> Effect:
        """Forget it."""
        self._world.call("networks.remove", network_id)
        with self._world.lock:
            return Effect.CHANGED if self._world.networks.pop(network_id, None) else Effect.ALREADY

    def bridge_name(self, network: ResolvedNetwork) -> str:
        """A name that no interface has."""
        return network.spec.bridge if network.spec.uplink is UplinkKind.BRIDGE else f"sim{network.id}"

    def namespace(self, network: ResolvedNetwork) -> str:
        """A path that leads nowhere."""
        return f"/simulated/netns/{network.id}"


class SimulatedSidecars:
    """Documents that last as long as the world."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world

    def write(self, kind: str, name: str, content: Mapping[str, object]) -> None:
        """Store a document."""
        self._world.call("sidecars.write", f"{kind}/{name}")
        with self._world.lock:
            self._world.documents[kind, name] = dict(content)

    def read_all(self, kind: str) -> Mapping[str, Mapping[str, object]]:
        """All of a kind."""
        with self._world.lock:
            return {name: document for (of, name), document in self._world.documents.items() if of == kind}

    def remove(self, kind: str, name: str) -> None:
        """Forget one."""
        self._world.call("sidecars.remove", f"{kind}/{name}")
        with self._world.lock:
            self._world.documents.pop((kind, name), None)


class SimulatedContents:
    """Bytes that last as long as the world."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world

    def put(self, data: bytes) -> str:
        """Keep bytes under their hash."""
        content_hash = blake3(data).hexdigest()
        with self._world.lock:
            self._world.contents[content_hash] = data
        return content_hash

    def get(self, content_hash: str) -> bytes:
        """Bytes by hash."""
        return self._get(self._world.contents, content_hash, "content")

    def put_secret(self, version: str, data: bytes) -> None:
        """Keep a secret."""
        with self._world.lock:
            self._world.secrets[version] = data

    def get_secret(self, version: str) -> bytes:
        """A secret by version."""
        return self._get(self._world.secrets, version, "secret")

    def keep_only(self, hashes: frozenset[str], versions: frozenset[str]) -> int:
        """Forget everything else."""
        removed = 0
        with self._world.lock:
            for kept, where in ((hashes, self._world.contents), (versions, self._world.secrets)):
                for name in [name for name in where if name not in kept]:
                    del where[name]
                    removed += 1
        return removed

    def _get(self, where: Mapping[str, bytes], name: str, what: str) -> bytes:
        with self._world.lock:
            if name not in where:
                raise OperationalError(Kind.NOT_FOUND, f"{what} {name[:12]}", "is not stored any more")
            return where[name]
