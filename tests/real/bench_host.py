"""A lab with one network and the real drivers on it: what tests of the hypervisor and of guests share.

The network here is the least that guests need (bridge, service namespace, dnsmasq); the networks' own driver has
tests of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from forkbed import lab as labs
from forkbed.base.ids import InstallationId, SystemId
from forkbed.core.systems.spec import ResolvedMachine
from forkbed.drivers.guests.driver import GuestSettings, RealGuests
from forkbed.drivers.libvirt.hypervisor import LibvirtHypervisor, LibvirtSettings
from forkbed.drivers.volumes.overlays import OverlayVolumes
from forkbed.ports.guests import CommandRequest, GuestAddress, SeedContent
from forkbed.ports.hypervisor import MachineDefinition, NicAttachment
from forkbed.ports.progress import Silence
from forkbed.ports.volumes import BaseImage
from tests.unit.drivers import samples

SYSTEM = SystemId("sys1")
SYSTEM_NAME = "boss-ops"
BRIDGE = "fbt0stbr"
SERVICE = "fbt0st"  # the service namespace's name in the lab
INSTALLATION = InstallationId("t0st")
_DNSMASQ = "/var/lib/forkbed/dnsmasq.hosts"


@dataclass
class BenchHost:
    """The drivers, and short ways to say common things."""

    lab: labs.Lab
    image: BaseImage
    volumes: OverlayVolumes

    def __post_init__(self) -> None:
        self.reopen()

    def reopen(self) -> None:
        """Drivers of a controller that has just started."""
        self.hypervisor = LibvirtHypervisor(self.hypervisor_settings())
        namespace = f"/proc/{self.lab.init.pid}/root/run/netns/{SERVICE}"
        self.guests = RealGuests(
            GuestSettings(INSTALLATION, self.lab.paths.state, self.lab.paths.run / "forkbed"),
            namespace=lambda _: namespace,
            ask_agent=self.hypervisor.agent_command,
        )

    def hypervisor_settings(self, installation: InstallationId = INSTALLATION) -> LibvirtSettings:
        return LibvirtSettings(
            installation,
            self.lab.libvirt_uri,
            has_kvm=lambda: False,
            console_dir=self.lab.paths.state / "console",
            emulator_log_dir=self.lab.paths.root / "log-libvirt" / "qemu",
        )

    def address(self, machine: ResolvedMachine) -> GuestAddress:
        return GuestAddress(machine, (samples.network(),) * len(machine.nics))

    def define(self, machine: ResolvedMachine, *, digest: str = "d1") -> MachineDefinition:
        """Make volumes and seed, define the machine."""
        content = SeedContent(SYSTEM_NAME, {"hash-of-motd": b"hello\n"}, {"token": b"s3cret"})
        self.guests.seed(machine, content, digest)
        for volume in machine.volumes:
            self.volumes.create(SYSTEM, machine, volume, self.image if volume.image_id else None)
        definition = self.definition(machine, digest=digest)
        self.hypervisor.define(definition)
        return definition

    def definition(self, machine: ResolvedMachine, *, digest: str = "d1") -> MachineDefinition:
        root, *data = [self.volumes.attachment(volume) for volume in machine.volumes]
        return MachineDefinition(
            system_id=SYSTEM,
            system_name=SYSTEM_NAME,
            revision=1,
            machine=machine,
            disks=(root, self.guests.seed_attachment(machine), *data),
            nics=tuple(NicAttachment(BRIDGE, nic.tap, nic.mac, 1442) for nic in machine.nics),
            digest=digest,
        )

    def boot(self, machine: ResolvedMachine, *, timeout_s: float = 90) -> str:
        """Define, start, and wait until it can be reached; returns over what."""
        self.define(machine)
        self.hypervisor.start(machine.id)
        return self.guests.await_reachable(self.address(machine), timeout_s, Silence())

    def discard(self, machine: ResolvedMachine) -> None:
        """End the machine and remove all of it."""
        if any(seen.machine_id == machine.id for seen in self.hypervisor.machines()):
            self.hypervisor.force_off(machine.id)
        self.hypervisor.undefine(machine.id)
        self.guests.remove_seed(machine.id)
        for volume in machine.volumes:
            self.volumes.remove(volume.id)

    def run(
        self, machine: ResolvedMachine, *argv: str, data: bytes = b"", user: str = "root", via: str = "auto"
    ) -> tuple[int, bytes, bytes]:
        """A command's status, output and errors."""
        request = CommandRequest(argv, user=user, via=via)
        return collect(self.guests, self.address(machine), request, data)


def collect(
    guests: RealGuests, address: GuestAddress, request: CommandRequest, data: bytes = b""
) -> tuple[int, bytes, bytes]:
    """Run a command with small input to its end."""
    output = {"stdout": bytearray(), "stderr": bytearray(), "": bytearray()}
    with guests.open_command(address, request) as channel:
        if data:
            channel.write(data)
        channel.close_input()
        while (received := channel.read(30)) is not None:
            assert received[0], "nothing for 30 s"
            output[received[0]] += received[1]
        return channel.exit_status(), bytes(output["stdout"]), bytes(output["stderr"])


def make_host(lab: labs.Lab, micro_image: Path) -> BenchHost:
    """The drivers of one installation in the lab, from outside it: its paths are visible on both sides."""
    state = lab.paths.state
    image = state / "images" / "micro.qcow2"
    image.parent.mkdir(exist_ok=True)
    if not image.exists():
        shutil.copy(micro_image, image)
        image.chmod(0o444)
    (lab.paths.run / "forkbed").mkdir(exist_ok=True)
    return BenchHost(
        lab=lab,
        image=BaseImage(samples.IMAGE, str(image), "qcow2", 256 * samples.MEBIBYTE),
        volumes=OverlayVolumes(state / "volumes"),
    )


def make_network(lab: labs.Lab, members: Sequence[ResolvedMachine]) -> None:
    """A bridge, a service namespace at 10.20.0.1 and fixed DHCP addresses for the members."""
    hosts = "".join(f"{nic.mac},{nic.address},{m.name}\n" for m in members for nic in m.nics)
    (lab.paths.state / Path(_DNSMASQ).name).write_text(hosts)
    for words in (
        f"ip netns add {SERVICE}",
        f"ip link add {BRIDGE} type bridge forward_delay 0",
        f"ip link set {BRIDGE} up",
        f"ip link add fbt0stsv type veth peer name eth0 netns {SERVICE}",
        f"ip link set fbt0stsv master {BRIDGE} up",
        f"ip -n {SERVICE} addr add 10.20.0.1/24 dev eth0",
        f"ip -n {SERVICE} link set eth0 up",
        f"ip -n {SERVICE} link set lo up",
        f"ip netns exec {SERVICE} dnsmasq --conf-file=/dev/null --interface=eth0 --except-interface=lo --user=root"
        f" --bind-interfaces --no-resolv --no-hosts --dhcp-authoritative --dhcp-range=10.20.0.0,static,255.255.255.0"
        f" --dhcp-hostsfile={_DNSMASQ} --dhcp-leasefile=/run/fbt0st.leases --pid-file=/run/fbt0st.pid",
    ):
        lab.run(words.split())


def two_nics(machine: ResolvedMachine) -> ResolvedMachine:
    """The machine with a second NIC first, on which nothing answers."""
    silent = replace(
        machine.nics[0], mac="52:54:00:00:01:01", tap="fbt0st000000ff", address=machine.nics[0].address + 100
    )
    return replace(machine, nics=(silent, *machine.nics))
