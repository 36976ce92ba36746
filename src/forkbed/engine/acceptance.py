"""From a manifest to a revision: read it, check it against this installation, decide what it leaves open.

Nothing changes here. What the controller then stores and starts is in the answer, so `plan` and `up` say and
do the same.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from forkbed.base.errors import Kind, OperationalError, Problem
from forkbed.base.ids import ImageId
from forkbed.config.manifest import ParsedManifest, parse_manifest
from forkbed.core.systems.branch import isolated
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.core.systems.change_view import ChangeView
from forkbed.core.systems.changes import diff_systems
from forkbed.core.systems.resolve import ImageFacts, Surroundings, resolve_system
from forkbed.core.systems.spec import PublishSpec, ResolvedSystem, SystemSpec
from forkbed.engine.host import Host
from forkbed.engine.options import Options
from forkbed.engine.requests import UpOptions
from forkbed.ports.images import ImageView
from forkbed.ports.store import Store, SystemRecord

_SECRETS_KEY = "installation-key"
_ANY = IPv4Address("0.0.0.0")


@dataclass(frozen=True, slots=True)
class Considered:
    """A manifest that could be accepted. `is_new` says whether that would make a revision."""

    bundle: ManifestBundle
    parsed: ParsedManifest
    before: SystemRecord | None
    resolved: ResolvedSystem
    changes: tuple[ChangeView, ...]
    is_new: bool

    @property
    def spec(self) -> SystemSpec:
        return self.parsed.spec


class Acceptance:
    """Considers manifests for one installation."""

    def __init__(self, host: Host, store: Store, options: Options) -> None:
        self._host = host
        self._store = store
        self._options = options
        self._drawing_key = threading.Lock()

    def consider(self, bundle: ManifestBundle) -> Considered:
        """Read and check a manifest. INVALID with all that is wrong, each with its place in the file."""
        images = _KnownImages(self._host)
        parsed = parse_manifest(bundle, images=images, secrets_key=self._secrets_key())
        records = self._store.systems()
        before = next((record for record in records if record.name == parsed.spec.name), None)
        if before is not None and before.resolved.origin is not None:
            # whatever the manifest says, a fork has no way out
            parsed = replace(parsed, spec=isolated(parsed.spec))
        others = [record for record in records if record.name != parsed.spec.name]
        clashes = list(published_elsewhere(parsed.spec, others))
        if clashes:
            raise parsed.refusal(clashes)
        facts = {
            reference: ImageFacts(images.found[reference].id, images.found[reference].size_bytes)
            for reference in {machine.image for machine in parsed.spec.machines}
        }
        old = before.resolved if before else None
        resolved = resolve_system(parsed.spec, old, self._surroundings(facts, others))
        changes = diff_systems(old, resolved)
        is_new = old is None or resolved != old
        if old is not None and is_new:
            resolved = replace(resolved, revision=old.revision + 1)
        return Considered(bundle, parsed, before, resolved, changes, is_new)

    def _surroundings(self, facts: Mapping[str, ImageFacts], others: list[SystemRecord]) -> Surroundings:
        taken = {
            network.transit
            for record in others
            for network in record.resolved.networks
            if network.transit is not None
        }
        return Surroundings(
            installation=self._store.installation_id(),
            images=facts,
            transit_pool=self._options.transit_pool,
            taken_transits=frozenset(taken),
            draw_id=self._options.draw_id,
            draw_uuid=self._options.draw_uuid,
        )

    def _secrets_key(self) -> bytes:
        """The key under which versions of secrets are made, so that a version says nothing of a short one."""
        contents = self._host.contents
        with self._drawing_key:  # two first manifests at once: one key
            try:
                return contents.get_secret(_SECRETS_KEY)
            except OperationalError as error:
                if error.kind is not Kind.NOT_FOUND:
                    raise
                key = hashlib.sha256(self._options.draw_id(64).encode()).digest()
                contents.put_secret(_SECRETS_KEY, key)
                return key


def kept_secrets(versions: frozenset[str]) -> frozenset[str]:
    """The versions with the installation's own key added: what a collection of garbage keeps."""
    return versions | {_SECRETS_KEY}


def refusals(considered: Considered, options: UpOptions) -> list[str]:
    """Why this may not be done with these options: data that would be lost and is not given up by name."""
    found = []
    for change in considered.changes:
        machine = change.subject.removeprefix("machine ")
        lost = [loss for loss in change.loses if not {machine, loss.split(" ")[0]} & options.destroy]
        if lost:
            found.append(
                f"{change.subject}: {', '.join(lost)} would be lost for good; "
                f"allow it with --destroy {machine}, or keep it in the manifest"
            )
    known = {machine.name for machine in considered.spec.machines}
    if considered.before is not None:
        for old in considered.before.resolved.machines:
            known |= {old.name, *(f"{old.name}/{volume.name}" for volume in old.volumes)}
    found += [f"--destroy {name}: there is no such machine or volume" for name in options.destroy - known]
    return found


def check_refusals(considered: Considered, options: UpOptions) -> None:
    """Raise UNSAFE if something would be lost that the options do not give up."""
    found = refusals(considered, options)
    if found:
        raise OperationalError(
            Kind.UNSAFE,
            f"system {considered.spec.name}",
            "nothing was changed: " + ("data would be lost" if len(found) > 1 else found[0]),
            "`forkbed plan` shows everything that would be done",
            details=tuple(found) if len(found) > 1 else (),
        )


def describe_changes(changes: tuple[ChangeView, ...]) -> tuple[str, ...]:
    """The changes in one line each, for the history: `machine boss: memory 256 MiB -> 512 MiB`."""
    lines = []
    for change in changes:
        if change.kind in ("create", "remove"):
            lines.append(f"{change.kind} {change.subject}")
        elif change.kind == "change":
            fields = ", ".join(
                f"{f.field} {f.old or 'nothing'} -> {f.new or 'nothing'}" for f in change.fields
            )
            lines.append(f"{change.subject}: {fields}")
    return tuple(lines)


class _KnownImages(Mapping[str, int]):
    """Every image reference with the size of its disk in bytes, looked up as it is asked for."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.found: dict[str, ImageView] = {}

    def __getitem__(self, reference: str) -> int:
        if reference not in self.found:
            try:
                self.found[reference] = self._host.images.resolve(reference)
            except OperationalError as error:
                if error.kind not in (Kind.NOT_FOUND, Kind.INVALID):
                    raise
                raise KeyError(reference) from error
        return self.found[reference].size_bytes

    def __iter__(self) -> Iterator[str]:
        for image in self._host.images.images():
            for name in image.names:
                yield name.removesuffix(":latest")

    def __len__(self) -> int:
        return sum(1 for _ in self)


def published_elsewhere(spec: SystemSpec, others: list[SystemRecord]) -> Iterator[Problem]:
    """Host ports that another system publishes already."""
    taken: dict[tuple[str, int], list[tuple[PublishSpec, str]]] = {}
    for record in others:
        for resolved in record.resolved.machines:
            for publish in resolved.spec.publish:
                key = (publish.protocol, publish.host_port)
                taken.setdefault(key, []).append((publish, f"{record.name}/{resolved.name}"))
    for machine in spec.machines:
        for position, publish in enumerate(machine.publish):
            for other, owner in taken.get((publish.protocol, publish.host_port), ()):
                if publish.host_address == other.host_address or _ANY in (
                    publish.host_address,
                    other.host_address,
                ):
                    yield Problem(
                        ("machines", machine.name, "publish", position),
                        f"port {publish.host_port} of the host is already published by {owner}",
                        "choose another host port",
                    )


def image_ids(system: ResolvedSystem) -> frozenset[ImageId]:
    """The images that the system's root volumes stand on."""
    return frozenset(machine.image_id for machine in system.machines)
