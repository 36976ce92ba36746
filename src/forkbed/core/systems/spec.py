"""What a person declares of a system, after parsing: the wanted state, with every unit resolved.

`…Spec` is what the manifest says; `Resolved…` adds what Forkbed decided once and keeps (ids, addresses, MACs,
the image's content). Planners read the resolved form only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

from forkbed.base.ids import ImageId, MachineId, NetworkId, SnapshotId, SystemId, VolumeId

LOOPBACK = IPv4Address("127.0.0.1")


class UplinkKind(StrEnum):
    """Where a network leads besides its own machines.

    RECORDED is for forks only, never written in a manifest: what would go out ends in a recorder.
    """

    NONE = "none"
    NAT = "nat"
    BRIDGE = "bridge"
    RECORDED = "recorded"


class Ipv6Policy(StrEnum):
    """What IPv6 a network carries between its machines; never router advertisements, never out of it."""

    BLOCK = "block"
    LINK_LOCAL = "link-local"


class RestartPolicy(StrEnum):
    """What happens to a machine that stopped by itself, or whose host came back."""

    ALWAYS = "always"
    NEVER = "never"


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"


class ProbeKind(StrEnum):
    TCP = "tcp"
    HTTP = "http"
    EXEC = "exec"


class SetupWhen(StrEnum):
    """How often a setup command runs: once in the life of the root volume, or at each boot."""

    ONCE = "once"
    BOOT = "boot"


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    name: str
    subnet: IPv4Network
    uplink: UplinkKind = UplinkKind.NONE
    bridge: str = (
        ""  # the host bridge, for UplinkKind.BRIDGE; with RECORDED that of the original, if it was on one
    )
    ipv6: Ipv6Policy = Ipv6Policy.BLOCK


@dataclass(frozen=True, slots=True)
class NicSpec:
    network: str
    address: IPv4Address | None = None
    mac: str | None = None  # lower case, colon separated


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """A data disk. `mount` and `filesystem` are applied inside the guest when the disk is blank."""

    name: str
    size_bytes: int
    mount: str = ""
    filesystem: str = "ext4"


@dataclass(frozen=True, slots=True)
class PublishSpec:
    """A host address and port whose connections go to a port of the machine."""

    host_port: int
    machine_port: int
    protocol: Protocol = Protocol.TCP
    host_address: IPv4Address = LOOPBACK


@dataclass(frozen=True, slots=True)
class FileSpec:
    """A file placed in the guest. `content_hash` is the BLAKE3 hex of its bytes, kept with the revision."""

    path: str
    content_hash: str
    mode: int = 0o644
    owner: str = "root:root"


@dataclass(frozen=True, slots=True)
class SecretSpec:
    """A file whose bytes are kept apart and never shown; `version` changes when the bytes do."""

    path: str
    name: str
    version: str
    mode: int = 0o600
    owner: str = "root:root"


@dataclass(frozen=True, slots=True)
class UserSpec:
    """A log-in account created in the guest, with the public keys that may use it."""

    name: str
    keys: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    sudo: bool = False
    shell: str = "/bin/sh"


@dataclass(frozen=True, slots=True)
class SetupSpec:
    """A shell command run in the guest as root after it can be reached and before its `ready` probes."""

    command: str
    when: SetupWhen = SetupWhen.ONCE
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """A question whose good answer means "in order". `timeout_s` limits the wait for all tries together."""

    kind: ProbeKind
    port: int = 0
    path: str = "/"
    status: int = 200
    command: str = ""
    interval_s: float = 0.5
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class MachineSpec:
    name: str
    image: str  # the reference as written
    cpus: int
    memory_bytes: int
    root_size_bytes: int | None = None  # None: as large as the image
    volumes: tuple[VolumeSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    publish: tuple[PublishSpec, ...] = ()
    files: tuple[FileSpec, ...] = ()
    secrets: tuple[SecretSpec, ...] = ()
    users: tuple[UserSpec, ...] = ()
    root_keys: tuple[str, ...] = ()  # public keys that may log in as root, besides the installation's own
    cloud_init: str = ""
    setup: tuple[SetupSpec, ...] = ()
    after: tuple[str, ...] = ()
    ready: tuple[ProbeSpec, ...] = ()
    checks: tuple[ProbeSpec, ...] = ()
    restart: RestartPolicy = RestartPolicy.ALWAYS
    maintenance_on: tuple[
        str, ...
    ] = ()  # shell commands that keep its users off, and those that let them back
    maintenance_off: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SystemSpec:
    name: str
    networks: tuple[NetworkSpec, ...]
    machines: tuple[MachineSpec, ...]
    labels: tuple[tuple[str, str], ...] = ()

    def machine(self, name: str) -> MachineSpec:
        """The machine of that name; `KeyError` if there is none."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class ResolvedNetwork:
    """A network with what was decided for it once.

    `lineage_id` is the id of the network that this one descends from through forks (itself at first); MACs
    are derived from it. `transit` is the /31 between service namespace and host, None without NAT or
    published ports (first address: host side, second: service namespace).
    """

    id: NetworkId
    lineage_id: NetworkId
    spec: NetworkSpec
    gateway: IPv4Address  # of the service namespace, on the subnet
    transit: IPv4Network | None


@dataclass(frozen=True, slots=True)
class ResolvedNic:
    network_id: NetworkId
    address: IPv4Address
    mac: str
    tap: str  # name of the host's end, at most 15 characters


@dataclass(frozen=True, slots=True)
class VolumeOrigin:
    """The content that a fork's volume begins with: a volume as it was at the cut of a snapshot."""

    snapshot_id: SnapshotId
    volume_id: VolumeId


@dataclass(frozen=True, slots=True)
class ResolvedVolume:
    """A disk of a machine. `image_id` is set for the root volume; it backs it, unless there is an `origin`."""

    id: VolumeId
    name: str  # "root", or the data volume's name
    size_bytes: int
    image_id: ImageId | None = None
    mount: str = ""
    filesystem: str = "ext4"
    origin: VolumeOrigin | None = None


@dataclass(frozen=True, slots=True)
class ResolvedMachine:
    """A machine with what was decided for it once. `volumes[0]` is the root volume."""

    id: MachineId
    spec: MachineSpec
    image_id: ImageId
    nics: tuple[ResolvedNic, ...]
    volumes: tuple[ResolvedVolume, ...]
    instance_id: str  # of cloud-init; stays that of the lineage in forks
    generation_uuid: str  # VM generation id, changes when the machine's history branches
    uuid: str  # of the libvirt domain
    born_in: str = ""  # the system in the hypervisor's name of it, where that is not its system's: names stay

    @property
    def name(self) -> str:
        return self.spec.name


@dataclass(frozen=True, slots=True)
class ForkOrigin:
    """Where a fork was cut. Names are as they were then; `snapshot` is "" for a cut of its own."""

    system_id: SystemId
    system: str
    snapshot_id: SnapshotId
    snapshot: str
    cut_at: float  # seconds since the epoch
    revision: int


@dataclass(frozen=True, slots=True)
class ResolvedSystem:
    """What planners work from. `revision` numbers the accepted manifests from 1."""

    id: SystemId
    name: str
    revision: int
    networks: tuple[ResolvedNetwork, ...]
    machines: tuple[ResolvedMachine, ...]
    labels: tuple[tuple[str, str], ...] = ()
    lineage: tuple[SystemId, ...] = field(default=())  # ancestors, oldest first; empty for a root
    origin: ForkOrigin | None = None  # of a fork
    known_as: str = ""  # what its own guests call it, if that is not its name: a fork's keep the original's

    @property
    def inner_name(self) -> str:
        """The system's name inside: in its guests, and in its networks' domain names."""
        return self.known_as or self.name

    @property
    def spec(self) -> SystemSpec:
        """What was declared of it."""
        return SystemSpec(
            name=self.name,
            networks=tuple(network.spec for network in self.networks),
            machines=tuple(machine.spec for machine in self.machines),
            labels=self.labels,
        )

    def machine(self, name: str) -> ResolvedMachine:
        """The machine of that name; `KeyError` if there is none."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise KeyError(name)

    def network(self, network_id: NetworkId) -> ResolvedNetwork:
        """The network of that id; `KeyError` if there is none."""
        for network in self.networks:
            if network.id == network_id:
                return network
        raise KeyError(network_id)
