"""From what a manifest says to a `SystemSpec`: defaults that depend on other parts, and the local files by value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from forkbed.base.errors import Problem
from forkbed.config import manifest_model as model
from forkbed.config.problems import Path
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.core.systems.spec import (
    FileSpec,
    MachineSpec,
    NetworkSpec,
    NicSpec,
    ProbeKind,
    ProbeSpec,
    PublishSpec,
    SecretSpec,
    SetupSpec,
    SystemSpec,
    UplinkKind,
    UserSpec,
    VolumeSpec,
)

MEBIBYTE = 1024**2


@dataclass(slots=True)
class Converter:
    """Makes one `SystemSpec`; `files` (by BLAKE3), `secrets` (by name) and `problems` fill up meanwhile.

    `secrets_key` (32 bytes) keys the hash that tells versions of a secret apart: without the key a version
    says nothing about the secret, however short that is.
    """

    bundle: ManifestBundle
    secrets_key: bytes
    files: dict[str, bytes] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def system(self, manifest: model.Manifest) -> SystemSpec:
        networks = tuple(_network(name, network) for name, network in manifest.networks.items())
        names = list(manifest.networks)
        return SystemSpec(
            name=manifest.system,
            networks=networks,
            machines=tuple(
                self._machine(name, machine, names) for name, machine in manifest.machines.items()
            ),
            labels=tuple(manifest.labels.items()),
        )

    def _machine(self, name: str, machine: model.Machine, networks: Sequence[str]) -> MachineSpec:
        path: Path = ("machines", name)
        return MachineSpec(
            name=name,
            image=machine.image,
            cpus=machine.cpus,
            memory_bytes=_whole_mebibytes(machine.memory),
            root_size_bytes=None if machine.root is None else _whole_mebibytes(machine.root),
            volumes=tuple(
                VolumeSpec(volume_name, _whole_mebibytes(volume.size), volume.mount or "", volume.filesystem)
                for volume_name, volume in machine.volumes.items()
            ),
            nics=self._nics(path, machine.nics, networks),
            publish=tuple(
                PublishSpec(item.host_port, item.machine_port, item.protocol, item.host_address)
                for item in machine.publish
            ),
            files=tuple(
                self._file((*path, "files", index), item) for index, item in enumerate(machine.files)
            ),
            secrets=tuple(
                self._secret((*path, "secrets", index), item) for index, item in enumerate(machine.secrets)
            ),
            users=tuple(
                UserSpec(
                    user_name,
                    self._keys((*path, "ssh", "users", user_name, "keys"), user.keys),
                    user.groups,
                    user.sudo,
                    user.shell,
                )
                for user_name, user in machine.ssh.users.items()
            ),
            root_keys=self._keys((*path, "ssh", "keys"), machine.ssh.keys),
            cloud_init=self._cloud_init((*path, "cloud_init"), machine.cloud_init),
            setup=tuple(SetupSpec(item.run, item.when, item.timeout) for item in machine.setup),
            after=machine.after,
            ready=tuple(_probe(item) for item in machine.ready),
            checks=tuple(_probe(item) for item in machine.checks),
            restart=machine.restart,
            maintenance_on=machine.maintenance.on,
            maintenance_off=machine.maintenance.off,
        )

    def _nics(
        self, path: Path, nics: tuple[model.Nic, ...] | None, networks: Sequence[str]
    ) -> tuple[NicSpec, ...]:
        if nics is None:
            if len(networks) > 1:
                right = f"write `nics: [{networks[0]}]`, or `nics: []` for a machine without network"
                self.problems.append(
                    Problem((*path, "nics"), "on which of the networks is the machine?", right)
                )
            return (NicSpec(networks[0]),) if len(networks) == 1 else ()
        return tuple(
            NicSpec(self._network_of((*path, "nics", index), nic, networks), nic.address, nic.mac)
            for index, nic in enumerate(nics)
        )

    def _network_of(self, path: Path, nic: model.Nic, networks: Sequence[str]) -> str:
        if nic.network is not None:
            return nic.network
        if len(networks) == 1:
            return networks[0]
        right = (
            "add `network:`, one of " + ", ".join(networks) if networks else "declare one under `networks:`"
        )
        self.problems.append(Problem((*path, "network"), "is missing", right))
        return ""

    def _file(self, path: Path, item: model.File) -> FileSpec:
        if item.content is not None:
            data = item.content.encode()
        else:
            assert item.source is not None
            data = self._local(self.bundle.files, item.source, (*path, "source"))
        digest = blake3(data).hexdigest()
        self.files[digest] = data
        return FileSpec(item.path, digest, item.mode, item.owner)

    def _secret(self, path: Path, item: model.Secret) -> SecretSpec:
        data = self._local(self.bundle.secrets, item.source, (*path, "source"))
        self.secrets[item.source] = data
        version = blake3(data, key=self.secrets_key).hexdigest()[:32]
        return SecretSpec(item.path, item.source, version, item.mode, item.owner)

    def _keys(self, path: Path, keys: tuple[model.Key, ...]) -> tuple[str, ...]:
        found: list[str] = []
        for index, key in enumerate(keys):
            if key.key is not None:
                found.append(key.key.strip())
                continue
            assert key.source is not None
            here = (*path, index, "source")
            lines = self._local_text(key.source, here).splitlines()
            wanted = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
            for line in wanted:
                problem = model.public_key_problem(line)
                if problem is not None and problem.context is not None:
                    wrong = f"`{key.source}`: {problem.context['wrong']}"
                    self.problems.append(Problem(here, wrong, problem.context["right"]))
                    break
            found += wanted
        return tuple(found)

    def _cloud_init(self, path: Path, item: model.CloudInit | None) -> str:
        if item is None or item.text is not None:
            return "" if item is None or item.text is None else item.text
        assert item.source is not None
        here = (*path, "source")
        before = len(self.problems)
        text = self._local_text(item.source, here)
        problem = model.user_data_problem(text) if len(self.problems) == before else None
        if problem is not None and problem.context is not None:
            self.problems.append(Problem(here, problem.context["wrong"], problem.context["right"]))
        return text

    def _local(self, given: Mapping[str, bytes], source: str, path: Path) -> bytes:
        data = given.get(source)
        if data is None:
            right = "the path is relative to the manifest's directory"
            self.problems.append(Problem(path, f"there is no file `{source}` that can be read", right))
            return b""
        return data

    def _local_text(self, source: str, path: Path) -> str:
        try:
            return self._local(self.bundle.files, source, path).decode("utf-8")
        except UnicodeDecodeError:
            self.problems.append(Problem(path, f"the file `{source}` is not UTF-8 text", "give a text file"))
            return ""


def _network(name: str, network: model.Network) -> NetworkSpec:
    kind, _, bridge = network.uplink.partition(":")
    return NetworkSpec(name, network.subnet, UplinkKind(kind), bridge, network.ipv6)


def _probe(probe: model.Probe) -> ProbeSpec:
    interval_s, timeout_s = probe.interval, probe.timeout
    if probe.tcp is not None:
        return ProbeSpec(ProbeKind.TCP, port=probe.tcp, interval_s=interval_s, timeout_s=timeout_s)
    if probe.http is not None:
        port, path, status = probe.http.port, probe.http.path, probe.http.status
        return ProbeSpec(ProbeKind.HTTP, port, path, status, interval_s=interval_s, timeout_s=timeout_s)
    assert probe.command is not None
    return ProbeSpec(ProbeKind.EXEC, command=probe.command, interval_s=interval_s, timeout_s=timeout_s)


def _whole_mebibytes(size_bytes: int) -> int:
    """Rounded up to whole MiB, so that disks and memory are exactly as large as declared everywhere."""
    return size_bytes if size_bytes < MEBIBYTE else -(-size_bytes // MEBIBYTE) * MEBIBYTE
