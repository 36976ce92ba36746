"""What a machine looks like as a libvirt domain, and which machine a domain is. Pure.

The shape is decided once, because a running guest cannot gain it later: a versioned machine type, a named CPU
baseline, a generation id, a random number source, the agent's channel, free PCIe ports, room for more memory and
processors. The same definition always gives the same text.

Two elements in the domain's metadata are ours: `machine` (identity, written with the definition) and `boot`
(which start this is, kept only while the domain runs; see `boots`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from forkbed.base.ids import InstallationId, MachineId, SystemId
from forkbed.core.systems.names import domain_of
from forkbed.ports.hypervisor import DiskAttachment, MachineDefinition, NicAttachment

MACHINE_NAMESPACE = "urn:forkbed:machine:1"
BOOT_NAMESPACE = "urn:forkbed:boot:1"
AGENT_CHANNEL = "org.qemu.guest_agent.0"
_MACHINE_TAG = f"{{{MACHINE_NAMESPACE}}}machine"
_BOOT_TAG = f"{{{BOOT_NAMESPACE}}}boot"
ElementTree.register_namespace("forkbed", MACHINE_NAMESPACE)
ElementTree.register_namespace("forkbed-boot", BOOT_NAMESPACE)

_SPARE_PORTS = 4  # devices that can be plugged into a running machine
_FIRST_SLOT = 2  # of the root bus; 0 is the host bridge, and firmware likes a screen at 1
_FUNCTIONS = 8  # of a PCI slot
_LEAST_MAXIMUM_CPUS = 8
_LEAST_MAXIMUM_MEMORY_KIB = 16 * 1024**2
_GROWTH_FACTOR = 4
_MEMORY_SLOTS = 16
# Linux sets 64 MiB aside for bounce buffers as soon as there might be memory above 4 GiB, which is where
# QEMU plugs it in. A guest of 128 MiB died of that at boot.
_LEAST_GROWING_MEMORY_KIB = 512 * 1024


@dataclass(frozen=True, slots=True)
class HostShape:
    """What the host, rather than the machine's definition, says about a domain."""

    installation: InstallationId
    domain_type: str  # "kvm" or "qemu"
    emulator: str
    machine_type: str  # versioned, such as "pc-q35-7.2"
    cpu_model: str
    console_log: str  # file that collects what the guest writes to its serial port


@dataclass(frozen=True, slots=True)
class Identity:
    """Which machine a domain is, from its metadata."""

    installation: InstallationId
    system_id: SystemId
    system_name: str
    machine_id: MachineId
    name: str
    revision: int
    digest: str
    shape: str  # hash of the whole text that was defined


@dataclass(frozen=True, slots=True)
class Boot:
    """Which boot of a running domain this is.

    `token` is drawn at each start, `resets` counts resets since. `kernel` is the guest kernel's own id of the
    boot, "" until the agent told it.
    """

    token: str
    resets: int = 0
    kernel: str = ""

    @property
    def id(self) -> str:
        return f"{self.token}.{self.resets}"


def domain_xml(definition: MachineDefinition, host: HostShape) -> str:
    """The whole domain as XML text."""
    domain = _domain(definition, host)
    identity = domain.find(f"metadata/{_MACHINE_TAG}")
    assert identity is not None
    identity.set("shape", hashlib.sha256(ElementTree.tostring(domain)).hexdigest()[:32])
    ElementTree.indent(domain)
    return ElementTree.tostring(domain, encoding="unicode") + "\n"


def read_identity(domain: Element) -> Identity | None:
    """Which machine the domain is; None if it is none of ours."""
    element = domain.find(f"metadata/{_MACHINE_TAG}")
    if element is None:
        return None
    return Identity(
        installation=InstallationId(element.get("installation", "")),
        system_id=SystemId(element.get("system-id", "")),
        system_name=element.get("system", ""),
        machine_id=MachineId(element.get("machine-id", "")),
        name=element.get("machine", ""),
        revision=int(element.get("revision", "0")),
        digest=element.get("digest", ""),
        shape=element.get("shape", ""),
    )


def read_machine_type(domain: Element) -> str:
    """The versioned machine type that the domain was given."""
    element = domain.find("os/type")
    return element.get("machine", "") if element is not None else ""


def agent_is_connected(live_domain: Element) -> bool:
    """Whether a running domain's guest has its agent's channel open."""
    targets = live_domain.iterfind("devices/channel/target")
    return any(t.get("name") == AGENT_CHANNEL and t.get("state") == "connected" for t in targets)


def read_boot(live_domain: Element) -> Boot | None:
    """Which boot a running domain says it is; None if nobody told it yet."""
    element = live_domain.find(f"metadata/{_BOOT_TAG}")
    if element is None:
        return None
    return Boot(element.get("token", ""), int(element.get("resets", "0")), element.get("kernel", ""))


def boot_xml(boot: Boot) -> str:
    """The metadata element for `read_boot`, without a namespace: libvirt adds it."""
    return ElementTree.tostring(_boot_element("boot", boot), encoding="unicode")


def boot_element(boot: Boot) -> Element:
    """The metadata element for `read_boot`, to be put into a domain that is about to go on from a memory."""
    return _boot_element(_BOOT_TAG, boot)


def _boot_element(tag: str, boot: Boot) -> Element:
    return Element(tag, token=boot.token, resets=str(boot.resets), kernel=boot.kernel)


def _domain(definition: MachineDefinition, host: HostShape) -> Element:
    machine = definition.machine
    domain = Element("domain", type=host.domain_type)
    _text(domain, "name", domain_of(host.installation, definition.system_name, machine))
    _text(domain, "uuid", machine.uuid)
    _text(domain, "genid", machine.generation_uuid)
    _text(domain, "title", f"{definition.system_name}/{machine.name}")
    SubElement(
        SubElement(domain, "metadata"),
        _MACHINE_TAG,
        {
            "installation": host.installation,
            "system-id": definition.system_id,
            "system": definition.system_name,
            "machine-id": machine.id,
            "machine": machine.name,
            "revision": str(definition.revision),
            "digest": definition.digest,
        },
    )
    _add_size(domain, machine.spec.cpus, machine.spec.memory_bytes, host)
    system = SubElement(domain, "os")
    _text(system, "type", "hvm", arch="x86_64", machine=host.machine_type)
    features = SubElement(domain, "features")
    SubElement(features, "acpi")
    SubElement(features, "apic")
    SubElement(domain, "clock", offset="utc")
    _text(domain, "on_poweroff", "destroy")
    _text(domain, "on_reboot", "restart")
    _text(domain, "on_crash", "destroy")
    _add_devices(domain, definition, host)
    return domain


def _add_size(domain: Element, cpus: int, memory_bytes: int, host: HostShape) -> None:
    """Memory and processors, with room to grow. libvirt wants a NUMA cell where memory may be plugged in."""
    memory_kib = -(-memory_bytes // 1024)
    maximum_cpus = max(_GROWTH_FACTOR * cpus, _LEAST_MAXIMUM_CPUS)
    if memory_kib >= _LEAST_GROWING_MEMORY_KIB:
        maximum_kib = max(_GROWTH_FACTOR * memory_kib, _LEAST_MAXIMUM_MEMORY_KIB)
        _text(domain, "maxMemory", str(maximum_kib), slots=str(_MEMORY_SLOTS), unit="KiB")
    _text(domain, "memory", str(memory_kib), unit="KiB")
    _text(domain, "vcpu", str(maximum_cpus), placement="static", current=str(cpus))
    # With KVM a missing feature would change what the guest sees; QEMU's emulation provides what it can.
    check = "full" if host.domain_type == "kvm" else "none"
    cpu = SubElement(domain, "cpu", mode="custom", match="exact", check=check)
    _text(cpu, "model", host.cpu_model, fallback="forbid")
    cpus_of_cell = f"0-{maximum_cpus - 1}"
    SubElement(SubElement(cpu, "numa"), "cell", id="0", cpus=cpus_of_cell, memory=str(memory_kib), unit="KiB")


def _add_devices(domain: Element, definition: MachineDefinition, host: HostShape) -> None:
    devices = SubElement(domain, "devices")
    _text(devices, "emulator", host.emulator)
    SubElement(devices, "controller", type="usb", model="none")
    SubElement(devices, "controller", type="pci", index="0", model="pcie-root")
    for index in range(1, _SPARE_PORTS + 1):
        SubElement(devices, "controller", type="pci", index=str(index), model="pcie-root-port")
    # What the machine is born with sits on the root bus itself: a port for each device, as libvirt would give
    # it, made an emulated guest's boot a tenth longer. NICs before disks, so that a guest which names its NICs
    # by their place keeps the names when it gets another disk.
    agent, balloon, generator = range(3)
    first_nic = generator + 1
    first_disk = first_nic + len(definition.nics)
    for number, disk in enumerate(definition.disks):
        _place(_add_disk(devices, disk, number), first_disk + number)
    for number, nic in enumerate(definition.nics):
        _place(_add_nic(devices, nic), first_nic + number)
    serial = SubElement(devices, "serial", type="pty")
    SubElement(serial, "log", file=host.console_log, append="on")
    SubElement(serial, "target", port="0")
    _place(SubElement(devices, "controller", type="virtio-serial", index="0"), agent)
    channel = SubElement(devices, "channel", type="unix")
    SubElement(channel, "target", type="virtio", name=AGENT_CHANNEL)
    SubElement(SubElement(devices, "video"), "model", type="none")
    memory = SubElement(devices, "memballoon", model="virtio", autodeflate="on", freePageReporting="on")
    _place(memory, balloon)
    randomness = SubElement(devices, "rng", model="virtio")
    _text(randomness, "backend", "/dev/urandom", model="random")
    _place(randomness, generator)
    SubElement(devices, "panic", model="isa")


def _place(device: Element, place: int) -> None:
    """Give the device its place on the root bus, eight to a slot."""
    slot, function = divmod(place, _FUNCTIONS)
    address = SubElement(
        device,
        "address",
        type="pci",
        domain="0x0000",
        bus="0x00",
        slot=f"0x{_FIRST_SLOT + slot:02x}",
        function=f"0x{function:x}",
    )
    if function == 0:
        address.set("multifunction", "on")


def _add_disk(devices: Element, disk: DiskAttachment, number: int) -> Element:
    element = SubElement(devices, "disk", type="file", device="disk")
    driver = SubElement(element, "driver", name="qemu", type=disk.format)
    if not disk.read_only:
        driver.set("discard", "unmap")
        driver.set("detect_zeroes", "unmap")
    SubElement(element, "source", file=disk.path)
    parent = element
    for path, layer_format in disk.chain:
        parent = SubElement(parent, "backingStore", type="file")
        SubElement(parent, "format", type=layer_format)
        # Layers are shared and never written: libvirt must not give them to the emulator's user.
        source = SubElement(parent, "source", file=path)
        SubElement(source, "seclabel", model="dac", relabel="no")
    SubElement(parent, "backingStore")  # the chain ends here, whatever a header may say
    SubElement(element, "target", dev=_disk_name(number), bus="virtio")
    _text(element, "serial", disk.serial)
    if disk.read_only:
        SubElement(element, "readonly")
    if number == 0:
        SubElement(element, "boot", order="1")
    return element


def _add_nic(devices: Element, nic: NicAttachment) -> Element:
    element = SubElement(devices, "interface", type="bridge")
    SubElement(element, "mac", address=nic.mac)
    SubElement(element, "source", bridge=nic.bridge)
    SubElement(element, "target", dev=nic.tap)
    SubElement(element, "model", type="virtio")
    # Not vhost: a live fork has to see every write to the guest's memory.
    SubElement(element, "driver", name="qemu")
    SubElement(element, "mtu", size=str(nic.mtu))
    SubElement(element, "rom", enabled="no")  # boots from disk; the ROM's banner would cost time
    return element


def _disk_name(number: int) -> str:
    """`vda` … `vdz`, `vdaa`: what libvirt calls the disk; the guest goes by serial number."""
    letters = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return f"vd{letters}"


def _text(parent: Element, tag: str, text: str, **attributes: str) -> Element:
    element = SubElement(parent, tag, attributes)
    element.text = text
    return element
