"""What would become different in a system, and what that takes: nothing, a restart, or the loss of data?

Pure. Compares two revisions, value by value, for people. The planner decides from digests what is done; this says
beforehand what that will mean, and a test holds the two together:

- live: labels, publish, setup, ready, checks, after, restart, maintenance, a network's uplink and IPv6
- restart: shape, NICs, an address that moves, volumes added or grown, all that comes with the seed; a subnet
  for all on it
- destroy: an image's other content, a volume that shrinks or goes, a machine that goes
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from forkbed.base.units import format_size
from forkbed.core.systems.change_view import (
    DESTROY,
    LIVE,
    RESTART,
    ChangeKind,
    ChangeView,
    FieldChange,
)
from forkbed.core.systems.spec import (
    FileSpec,
    MachineSpec,
    NetworkSpec,
    NicSpec,
    ProbeKind,
    ProbeSpec,
    PublishSpec,
    ResolvedMachine,
    ResolvedSystem,
    ResolvedVolume,
    SecretSpec,
    SetupSpec,
    SetupWhen,
    UplinkKind,
    UserSpec,
)

_RANK = {LIVE: 0, RESTART: 1, DESTROY: 2}


def diff_systems(old: ResolvedSystem | None, new: ResolvedSystem) -> tuple[ChangeView, ...]:
    """Every network and machine with what becomes of it: the system, networks, machines, then what goes.

    `new` is resolved against `old`, so that what is kept of a system has its id in both.
    """
    return tuple(_changes(old, new))


@dataclass(frozen=True, slots=True)
class _Found:
    """A difference and what it takes; `loses` names data that would be gone."""

    field: str
    old: str
    new: str
    needs: str
    loses: tuple[str, ...] = ()


def _changes(old: ResolvedSystem | None, new: ResolvedSystem) -> Iterator[ChangeView]:
    labels = list(_by_key("labels", dict(old.labels) if old else {}, dict(new.labels), LIVE))
    if labels:
        yield _view(f"system {new.name}", labels)
    old_networks = {network.spec.name: network.spec for network in old.networks} if old else {}
    old_machines = {machine.name: machine for machine in old.machines} if old else {}
    moved: dict[str, list[_Found]] = {}  # by network: what its machines have to restart for
    for network in (resolved.spec for resolved in new.networks):
        subject = f"network {network.name}"
        was = old_networks.pop(network.name, None)
        if was is None:
            yield ChangeView(ChangeKind.CREATE, subject, _network_fields(network))
            continue
        found = list(_network(was, network))
        moved[network.name] = [item for item in found if item.needs == RESTART]
        yield _view(subject, found)
    for machine in new.machines:
        had = old_machines.pop(machine.name, None)
        yield (
            _created(machine)
            if had is None
            else _view(f"machine {machine.name}", _machine(had, machine, moved))
        )
    for gone in old_networks:
        yield ChangeView(ChangeKind.REMOVE, f"network {gone}")
    for machine in old_machines.values():
        loses = tuple(_lost(machine, volume) for volume in machine.volumes)
        yield ChangeView(ChangeKind.REMOVE, f"machine {machine.name}", needs=DESTROY, loses=loses)


def _created(machine: ResolvedMachine) -> ChangeView:
    spec = machine.spec
    fields = [
        FieldChange("image", "", _image(machine)),
        FieldChange("cpus", "", str(spec.cpus)),
        FieldChange("memory", "", format_size(spec.memory_bytes)),
    ]
    if spec.root_size_bytes is not None:
        fields.append(FieldChange("root", "", format_size(spec.root_size_bytes)))
    for volume in spec.volumes:
        fields.append(FieldChange(f"volumes.{volume.name}.size", "", format_size(volume.size_bytes)))
        if volume.mount:
            fields.append(FieldChange(f"volumes.{volume.name}.mount", "", volume.mount))
    fields += [FieldChange("nics", "", _nic(nic)) for nic in spec.nics]
    blank = MachineSpec(spec.name, spec.image, spec.cpus, spec.memory_bytes)
    found = [*_seed(blank, spec), *_live(blank, spec)]
    fields += [FieldChange(item.field, "", item.new) for item in found]
    return ChangeView(ChangeKind.CREATE, f"machine {machine.name}", tuple(fields))


def _machine(
    old: ResolvedMachine, new: ResolvedMachine, moved: Mapping[str, Sequence[_Found]]
) -> Iterator[_Found]:
    yield from _root(old, new)
    yield from _volumes(old, new)
    yield from _shape(old, new)
    yield from _seed(old.spec, new.spec)
    yield from _live(old.spec, new.spec)
    for name in dict.fromkeys(nic.network for nic in new.spec.nics):
        for item in moved.get(name, ()):
            yield _Found(f"networks.{name}.{item.field}", item.old, item.new, RESTART)
    for index, (was, now) in enumerate(zip(old.nics, new.nics, strict=False)):
        if old.spec.nics[index] == new.spec.nics[index]:  # else it is told already
            yield from _value(f"nics[{index}].address", str(was.address), str(now.address), RESTART)


def _root(old: ResolvedMachine, new: ResolvedMachine) -> Iterator[_Found]:
    was, now = old.volumes[0], new.volumes[0]
    kept = was.id == now.id
    needs, loses = (RESTART, ()) if kept else (DESTROY, (_lost(old, was),))
    if old.image_id != new.image_id:
        yield _Found("image", _image(old), _image(new), needs, loses)
    else:
        yield from _value("image", old.spec.image, new.spec.image, LIVE)
    if was.size_bytes != now.size_bytes:
        yield _Found("root", *_sizes(was.size_bytes, now.size_bytes), needs, loses)


def _view(subject: str, found: Iterable[_Found]) -> ChangeView:
    items = list(found)
    if not items:
        return ChangeView(ChangeKind.KEEP, subject)
    return ChangeView(
        ChangeKind.CHANGE,
        subject,
        tuple(FieldChange(item.field, item.old, item.new) for item in items),
        needs=max((item.needs for item in items), key=_RANK.__getitem__),
        loses=tuple(dict.fromkeys(name for item in items for name in item.loses)),
    )


def _network_fields(network: NetworkSpec) -> tuple[FieldChange, ...]:
    return (
        FieldChange("subnet", "", str(network.subnet)),
        FieldChange("uplink", "", _uplink(network)),
        FieldChange("ipv6", "", str(network.ipv6)),
    )


def _network(old: NetworkSpec, new: NetworkSpec) -> Iterator[_Found]:
    """A subnet moves addresses, at the start of a machine; the way out changes behind the bridge guests are on."""
    yield from _value("subnet", str(old.subnet), str(new.subnet), RESTART)
    yield from _value("uplink", _uplink(old), _uplink(new), LIVE)
    yield from _value("ipv6", str(old.ipv6), str(new.ipv6), LIVE)


def _volumes(old: ResolvedMachine, new: ResolvedMachine) -> Iterator[_Found]:
    before = {volume.name: volume for volume in old.volumes[1:]}
    for volume in new.volumes[1:]:
        field = f"volumes.{volume.name}"
        was = before.pop(volume.name, None)
        if was is None:
            yield _Found(f"{field}.size", "", format_size(volume.size_bytes), RESTART)
            continue
        if was.size_bytes != volume.size_bytes:
            needs, loses = (RESTART, ()) if was.id == volume.id else (DESTROY, (_lost(old, was),))
            yield _Found(f"{field}.size", *_sizes(was.size_bytes, volume.size_bytes), needs, loses)
        yield from _value(f"{field}.mount", was.mount, volume.mount, RESTART)
        yield from _value(f"{field}.filesystem", was.filesystem, volume.filesystem, RESTART)
    for gone in before.values():
        yield _Found(f"volumes.{gone.name}", format_size(gone.size_bytes), "", DESTROY, (_lost(old, gone),))
    kept = [volume.name for volume in old.volumes[1:] if volume.name not in before]
    order = [volume.name for volume in new.volumes[1:] if volume.name in kept]
    yield from _value("volumes", ", ".join(kept), ", ".join(order), RESTART)


def _shape(old: ResolvedMachine, new: ResolvedMachine) -> Iterator[_Found]:
    yield from _value("cpus", str(old.spec.cpus), str(new.spec.cpus), RESTART)
    yield from _value("memory", *_sizes(old.spec.memory_bytes, new.spec.memory_bytes), RESTART)
    for index, (was, now) in enumerate(zip_longest(old.spec.nics, new.spec.nics)):
        # an address or MAC that is now written down as it was already changes nothing in the guest
        needs = LIVE if old.nics[index : index + 1] == new.nics[index : index + 1] else RESTART
        yield from _value(
            f"nics[{index}]", "" if was is None else _nic(was), "" if now is None else _nic(now), needs
        )


def _seed(old: MachineSpec, new: MachineSpec) -> Iterator[_Found]:
    """All that the guest takes from its seed when it boots."""
    yield from _by_key("files", _files(old.files), _files(new.files), RESTART)
    yield from _secrets(old.secrets, new.secrets)
    yield from _listed("ssh.keys", old.root_keys, new.root_keys, RESTART)
    yield from _by_key("ssh.users", _users(old.users), _users(new.users), RESTART)
    yield from _value("cloud_init", _digested(old.cloud_init), _digested(new.cloud_init), RESTART)


def _live(old: MachineSpec, new: MachineSpec) -> Iterator[_Found]:
    yield from _listed("publish", map(_publish, old.publish), map(_publish, new.publish), LIVE)
    yield from _listed("setup", map(_setup, old.setup), map(_setup, new.setup), LIVE)
    yield from _listed("ready", map(_probe, old.ready), map(_probe, new.ready), LIVE)
    yield from _listed("checks", map(_probe, old.checks), map(_probe, new.checks), LIVE)
    yield from _value("after", ", ".join(old.after), ", ".join(new.after), LIVE)
    yield from _value("restart", str(old.restart), str(new.restart), LIVE)
    yield from _listed("maintenance.on", old.maintenance_on, new.maintenance_on, LIVE)
    yield from _listed("maintenance.off", old.maintenance_off, new.maintenance_off, LIVE)


def _value(field: str, old: str, new: str, needs: str) -> Iterator[_Found]:
    if old != new:
        yield _Found(field, old, new, needs)


def _by_key(field: str, old: Mapping[str, str], new: Mapping[str, str], needs: str) -> Iterator[_Found]:
    for key in [*new, *(key for key in old if key not in new)]:
        yield from _value(f"{field}.{key}", old.get(key, ""), new.get(key, ""), needs)


def _listed(field: str, old: Iterable[str], new: Iterable[str], needs: str) -> Iterator[_Found]:
    """What came and what went, in pairs; where only the order differs, both lists."""
    before, after = list(old), list(new)
    if before == after:
        return
    gone = [item for item in before if item not in after]
    added = [item for item in after if item not in before]
    if not gone and not added:
        yield _Found(field, ", ".join(before), ", ".join(after), needs)
    for was, now in zip_longest(gone, added, fillvalue=""):
        yield _Found(field, was, now, needs)


def _secrets(old: Sequence[SecretSpec], new: Sequence[SecretSpec]) -> Iterator[_Found]:
    """Where secrets go, and that one is another; never anything of their bytes."""
    before = {secret.path: secret for secret in old}
    after = {secret.path: secret for secret in new}
    for path in [*after, *(path for path in before if path not in after)]:
        was, now = before.get(path), after.get(path)
        if was == now:
            continue
        other = was is not None and now is not None and was.version != now.version
        shown = "" if now is None else _placed(now.mode, now.owner, f"secret {now.name}")
        yield _Found(
            f"secrets.{path}",
            "" if was is None else _placed(was.mode, was.owner, f"secret {was.name}"),
            shown + (", another value" if other else ""),
            RESTART,
        )


def _files(files: Sequence[FileSpec]) -> dict[str, str]:
    return {file.path: _placed(file.mode, file.owner, f"content {file.content_hash[:12]}") for file in files}


def _placed(mode: int, owner: str, what: str) -> str:
    return f"{what}, {mode:04o} {owner}"


def _users(users: Sequence[UserSpec]) -> dict[str, str]:
    return {
        user.name: "; ".join([
            f"shell {user.shell}",
            *([f"groups {', '.join(user.groups)}"] if user.groups else []),
            *(["sudo"] if user.sudo else []),
            *(f"key {key}" for key in user.keys),
        ])
        for user in users
    }  # fmt: skip


def _uplink(network: NetworkSpec) -> str:
    return f"bridge:{network.bridge}" if network.uplink is UplinkKind.BRIDGE else str(network.uplink)


def _nic(nic: NicSpec) -> str:
    return " ".join(
        [nic.network, *([str(nic.address)] if nic.address else []), *([nic.mac] if nic.mac else [])]
    )


def _publish(item: PublishSpec) -> str:
    return f"{item.host_address}:{item.host_port} -> {item.machine_port}/{item.protocol}"


def _setup(item: SetupSpec) -> str:
    when = "at each boot" if item.when is SetupWhen.BOOT else "once"
    return f"{item.command} ({when}, {item.timeout_s:g} s)"


def _probe(probe: ProbeSpec) -> str:
    match probe.kind:
        case ProbeKind.TCP:
            what = f"tcp {probe.port}"
        case ProbeKind.HTTP:
            what = f"http :{probe.port}{probe.path} {probe.status}"
        case ProbeKind.EXEC:
            what = f"exec {probe.command}"
    return f"{what} (each {probe.interval_s:g} s, for {probe.timeout_s:g} s)"


def _digested(text: str) -> str:
    if not text:
        return ""
    return f"{len(text.splitlines())} lines, {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _sizes(old_bytes: int, new_bytes: int) -> tuple[str, str]:
    """Both sizes, exact to the byte where rounding would make them look the same."""
    old, new = format_size(old_bytes), format_size(new_bytes)
    return (f"{old_bytes} B", f"{new_bytes} B") if old == new and old_bytes != new_bytes else (old, new)


def _image(machine: ResolvedMachine) -> str:
    return f"{machine.spec.image} ({machine.image_id[:12]})"


def _lost(machine: ResolvedMachine, volume: ResolvedVolume) -> str:
    return f"{machine.name}/{volume.name} ({format_size(volume.size_bytes)})"
