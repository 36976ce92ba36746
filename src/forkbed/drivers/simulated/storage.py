"""`ports.networks`, `ports.sidecars` and `ports.contents` in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blake3 import blake3

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import NetworkId, SystemId
from forkbed.core.networks.intents import Intent
from forkbed.core.systems.spec import ResolvedMachine, ResolvedNetwork, UplinkKind
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import NetworkView
from forkbed.drivers.simulated.world import SimulatedWorld

_LEADS_OUT = frozenset({UplinkKind.NAT, UplinkKind.BRIDGE})


class SimulatedNetworks:
    """Segments that are there or not, as `Networks` and `Recorder`."""

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
        self._world.call("networks.ensure", network.id)
        wanted = NetworkView(network.id, system_id, digest, True)
        with self._world.lock:
            known = self._world.networks.get(network.id)
            self._world.networks[network.id] = wanted
            if network.spec.uplink in _LEADS_OUT:
                self._world.ways_out.add(network.id)
            else:
                self._world.ways_out.discard(network.id)
            if network.spec.uplink is UplinkKind.RECORDED:
                self._world.intents.setdefault(network.id, [])
        return Effect.ALREADY if known == wanted else Effect.CHANGED

    def remove(self, network_id: NetworkId) -> Effect:
        """Forget it."""
        self._world.call("networks.remove", network_id)
        with self._world.lock:
            self._world.ways_out.discard(network_id)
            self._world.intents.pop(network_id, None)
            return Effect.CHANGED if self._world.networks.pop(network_id, None) else Effect.ALREADY

    def hand_over(self, source: ResolvedNetwork, target: ResolvedNetwork) -> None:
        """Clients know nothing of it."""
        self._world.call("networks.hand_over", target.spec.name)

    def bridge_name(self, network: ResolvedNetwork) -> str:
        """A name that no interface has."""
        return f"sim{network.id}"

    def namespace(self, network: ResolvedNetwork) -> str:
        """A path that leads nowhere."""
        return f"/simulated/netns/{network.id}"

    def intents(self, network_id: NetworkId, *, after: int, limit: int) -> Sequence[Intent]:
        """What the world made its guests try."""
        self._world.call("networks.intents", network_id)
        with self._world.lock:
            kept = self._world.intents.get(network_id, [])
            return [intent for intent in kept if intent.sequence > after][:limit]


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
