"""Systems that are in order, as hypothesis draws them, and their manifests."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import yaml  # type: ignore[import-untyped]
from blake3 import blake3
from hypothesis import strategies as st

from forkbed.core.systems.bundle import ManifestBundle
from forkbed.core.systems.spec import (
    FileSpec,
    Ipv6Policy,
    MachineSpec,
    NetworkSpec,
    NicSpec,
    ProbeKind,
    ProbeSpec,
    Protocol,
    PublishSpec,
    RestartPolicy,
    SecretSpec,
    SetupSpec,
    SetupWhen,
    SystemSpec,
    UplinkKind,
    UserSpec,
    VolumeSpec,
)

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHVuaXQtdGVzdC1rZXktb25seS1uby1tYW4h"
MEBIBYTE = 1024**2
SECRETS_KEY = b"k" * 32

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True).filter(
    lambda name: name not in ("root", "seed")
)
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029\ufeff"),
    min_size=1,
    max_size=30,
)
COMMANDS = TEXTS.filter(lambda text: text.strip() != "" and "\0" not in text)
LINES = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=12)
SIZES = st.integers(1, 4096).map(lambda count: count * MEBIBYTE)
SECONDS = st.integers(1, 900).map(lambda tenths: tenths / 10)


@st.composite
def probes(draw: st.DrawFn, networked: bool) -> ProbeSpec:
    kind = draw(st.sampled_from(list(ProbeKind) if networked else [ProbeKind.EXEC]))
    port, interval_s, timeout_s = draw(st.integers(1, 65535)), draw(SECONDS), draw(SECONDS)
    if kind is ProbeKind.EXEC:
        return ProbeSpec(kind, 0, "/", 200, draw(COMMANDS), interval_s, timeout_s)
    if kind is ProbeKind.TCP:
        return ProbeSpec(kind, port, "/", 200, "", interval_s, timeout_s)
    status = draw(st.integers(100, 599))
    return ProbeSpec(kind, port, "/" + draw(LINES), status, "", interval_s, timeout_s)


@st.composite
def machines(draw: st.DrawFn, index: int, name: str, networks: list[NetworkSpec]) -> MachineSpec:
    chosen = draw(st.lists(st.sampled_from(networks), unique=True)) if networks else []
    nics = tuple(
        NicSpec(
            network.name,
            draw(st.sampled_from([None, IPv4Address(int(network.subnet.network_address) + 2 + index)])),
            draw(st.sampled_from([None, f"52:54:00:00:{position:02x}:{index:02x}"])),
        )
        for position, network in enumerate(chosen)
    )
    bridged = bool(chosen) and chosen[0].uplink is UplinkKind.BRIDGE
    publish = PublishSpec(
        draw(st.integers(1 + index * 100, 100 + index * 100)),
        draw(st.integers(1, 65535)),
        draw(st.sampled_from(Protocol)),
        draw(st.sampled_from([IPv4Address("127.0.0.1"), IPv4Address("0.0.0.0")])),
    )
    volumes = draw(st.lists(NAMES, max_size=2, unique=True))
    paths = draw(st.lists(NAMES, max_size=3, unique=True))
    return MachineSpec(
        name=name,
        image=draw(st.sampled_from(["debian:dev", "micro:dev"])),
        cpus=draw(st.integers(1, 256)),
        memory_bytes=draw(st.integers(64, 4096)) * MEBIBYTE,
        root_size_bytes=draw(st.none() | SIZES),
        volumes=tuple(
            VolumeSpec(
                volume,
                draw(SIZES),
                draw(st.sampled_from(["", f"/srv/{volume}"])),
                draw(st.sampled_from(["ext4", "xfs"])),
            )
            for volume in volumes
        ),
        nics=nics,
        publish=(publish,) if nics and not bridged and draw(st.booleans()) else (),
        files=tuple(
            FileSpec(f"/etc/f/{path}", draw(TEXTS), draw(st.integers(0, 0o7777)), "root:adm")
            for path in paths
        ),
        secrets=tuple(
            SecretSpec(f"/etc/s/{path}", f"keys/{path}", "", draw(st.sampled_from([0o600, 0o440])))
            for path in paths[:1]
        ),
        users=tuple(
            UserSpec(user, (KEY,), ("adm",), draw(st.booleans()), "/bin/bash")
            for user in draw(st.lists(st.sampled_from(["ann", "ben"]), unique=True))
        ),
        root_keys=draw(st.sampled_from([(), (KEY,), (KEY, f"{KEY} me@here")])),
        cloud_init=draw(st.just("") | COMMANDS.map(lambda text: "#cloud-config\n" + text)),
        setup=tuple(
            SetupSpec(command, draw(st.sampled_from(SetupWhen)), draw(SECONDS))
            for command in draw(st.lists(COMMANDS, max_size=2))
        ),
        ready=tuple(draw(st.lists(probes(bool(nics)), max_size=2))),
        checks=tuple(draw(st.lists(probes(bool(nics)), max_size=1))),
        restart=draw(st.sampled_from(RestartPolicy)),
        maintenance_on=tuple(draw(st.lists(COMMANDS, max_size=1))),
        maintenance_off=tuple(draw(st.lists(COMMANDS, max_size=1))),
    )


@st.composite
def systems(draw: st.DrawFn) -> tuple[SystemSpec, ManifestBundle]:
    """A spec with the bundle that declares it. File contents stand in `content_hash` while it is made."""
    networks = [
        NetworkSpec(
            name,
            IPv4Network(f"10.{index}.0.0/{24 - index}"),
            uplink,
            "br0" if uplink is UplinkKind.BRIDGE else "",
            draw(st.sampled_from(Ipv6Policy)),
        )
        for index, name in enumerate(draw(st.lists(NAMES, max_size=3, unique=True)))
        for uplink in [draw(st.sampled_from([UplinkKind.NONE, UplinkKind.NAT, UplinkKind.BRIDGE]))]
    ]
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    made = [draw(machines(index, name, networks)) for index, name in enumerate(names)]
    labels = tuple(draw(st.dictionaries(LINES, TEXTS, max_size=2)).items())
    flow = draw(st.booleans())
    return _bundled(draw(NAMES), networks, made, labels, flow)


def _bundled(
    name: str,
    networks: list[NetworkSpec],
    made: list[MachineSpec],
    labels: tuple[tuple[str, str], ...],
    flow: bool,
) -> tuple[SystemSpec, ManifestBundle]:
    secrets: dict[str, bytes] = {}
    final = []
    document: dict[str, Any] = {"version": "1", "system": name, "networks": {}, "machines": {}}
    document["labels"] = {key: _escaped(value) for key, value in labels}
    for network in networks:
        uplink = f"bridge:{network.bridge}" if network.bridge else str(network.uplink)
        document["networks"][network.name] = {
            "subnet": str(network.subnet),
            "uplink": uplink,
            "ipv6": str(network.ipv6),
        }
    for index, machine in enumerate(made):
        after = tuple(other.name for other in made[:index])[-2:]
        document["machines"][machine.name] = {**_machine_document(machine), "after": list(after)}
        for secret in machine.secrets:
            secrets[secret.name] = f"secret of {secret.name}".encode()
        final.append(
            replace(
                machine,
                after=after,
                files=tuple(
                    replace(file, content_hash=blake3(file.content_hash.encode()).hexdigest())
                    for file in machine.files
                ),
                secrets=tuple(
                    replace(secret, version=blake3(secrets[secret.name], key=SECRETS_KEY).hexdigest()[:32])
                    for secret in machine.secrets
                ),
            )
        )
    text = yaml.safe_dump(document, default_flow_style=flow, sort_keys=False, allow_unicode=True)
    spec = SystemSpec(name, tuple(networks), tuple(final), labels)
    return spec, ManifestBundle("m.yaml", text, secrets=secrets)


def _escaped(text: str) -> str:
    return text.replace("${", "$${")


def _machine_document(machine: MachineSpec) -> dict[str, Any]:
    document: dict[str, Any] = {
        "image": machine.image,
        "cpus": machine.cpus,
        "memory": f"{machine.memory_bytes // MEBIBYTE} MiB",
        "volumes": {
            volume.name: {
                "size": f"{volume.size_bytes // MEBIBYTE}MiB",
                "filesystem": volume.filesystem,
                **({"mount": volume.mount} if volume.mount else {}),
            }
            for volume in machine.volumes
        },
        "nics": [
            {
                "network": nic.network,
                **({"address": str(nic.address)} if nic.address else {}),
                **({"mac": nic.mac} if nic.mac else {}),
            }
            for nic in machine.nics
        ],
        "publish": [
            f"{item.host_address}:{item.host_port}:{item.machine_port}/{item.protocol}"
            for item in machine.publish
        ],
        "files": [
            {"path": f.path, "content": _escaped(f.content_hash), "mode": f"{f.mode:04o}", "owner": f.owner}
            for f in machine.files
        ],
        "secrets": [
            {"path": s.path, "source": s.name, "mode": f"{s.mode:04o}", "owner": s.owner}
            for s in machine.secrets
        ],
        "ssh": {
            "keys": list(machine.root_keys),
            "users": {
                user.name: {
                    "keys": list(user.keys),
                    "groups": list(user.groups),
                    "sudo": user.sudo,
                    "shell": user.shell,
                }
                for user in machine.users
            },
        },
        "setup": [
            {"run": _escaped(item.command), "when": str(item.when), "timeout": f"{item.timeout_s}s"}
            for item in machine.setup
        ],
        "ready": [_probe_document(probe) for probe in machine.ready],
        "checks": [_probe_document(probe) for probe in machine.checks],
        "restart": str(machine.restart),
        "maintenance": {
            "on": [_escaped(command) for command in machine.maintenance_on],
            "off": [_escaped(command) for command in machine.maintenance_off],
        },
    }
    if machine.root_size_bytes is not None:
        document["root"] = f"{machine.root_size_bytes // MEBIBYTE}MiB"
    if machine.cloud_init:
        document["cloud_init"] = _escaped(machine.cloud_init)
    return document


def _probe_document(probe: ProbeSpec) -> dict[str, Any]:
    times = {"interval": f"{probe.interval_s}s", "timeout": f"{probe.timeout_s}s"}
    if probe.kind is ProbeKind.TCP:
        return {"tcp": probe.port, **times}
    if probe.kind is ProbeKind.HTTP:
        http = {"port": probe.port, "path": _escaped(probe.path), "status": probe.status}
        return {"http": http, **times}
    return {"exec": _escaped(probe.command), **times}
