"""What comes before a memory's stream, and which machine goes on from it."""

from __future__ import annotations

import struct
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers.libvirt.domain_xml import (
    Boot,
    HostShape,
    boot_element,
    domain_xml,
    read_boot,
    read_identity,
)
from forkbed.drivers.libvirt.freezing import active_files, snapshot_xml, stream_limit_bytes
from forkbed.drivers.libvirt.refusals import refusal
from forkbed.drivers.libvirt.saveimage import disk_files, disk_serial, image_head, restored_domain
from forkbed.ports.cuts import CutOrder, DiskCut
from forkbed.ports.hypervisor import MachineDefinition, NicAttachment
from tests.unit.drivers import samples
from tests.unit.drivers.test_domain_xml import ACCELERATED, EMULATED

BOOT = Boot("t0ken", kernel="of-the-original")


def at_cut(host: HostShape = EMULATED) -> str:
    """The sample machine as libvirt shows it while it runs."""
    domain = ElementTree.fromstring(domain_xml(samples.definition(), host))
    metadata = domain.find("metadata")
    assert metadata is not None
    metadata.append(boot_element(Boot("0ld", resets=2, kernel=BOOT.kernel)))
    ElementTree.SubElement(domain, "seclabel", type="dynamic", model="dac")
    ElementTree.SubElement(domain, "vcpupin", vcpu="0")
    serial = domain.find("devices/serial")
    channel = domain.find("devices/channel")
    assert serial is not None and channel is not None
    ElementTree.SubElement(serial, "source", path="/dev/pts/7")
    ElementTree.SubElement(channel, "source", mode="bind", path="/run/channel/of-the-original")
    return ElementTree.tostring(domain, encoding="unicode")


def fork() -> MachineDefinition:
    machine = replace(
        samples.machine(),
        uuid="88888888-2222-4333-8444-000000000001",
        generation_uuid="22222222-2222-4333-8444-000000000001",
    )
    original = samples.definition(machine)
    disks = tuple(
        replace(disk, path=f"/state/fork/{disk.serial}", chain=((disk.path, disk.format), *disk.chain))
        if not disk.read_only
        else disk
        for disk in original.disks
    )
    nics = tuple(NicAttachment("fbt0stfork", "fbt0stffffffff", nic.mac, nic.mtu) for nic in original.nics)
    return replace(original, system_name="copy", machine=machine, disks=disks, nics=nics)


def restored() -> ElementTree.Element:
    host = replace(EMULATED, console_log="/state/console/copy.log", machine_type="pc-q35-9.9")
    text = restored_domain(at_cut(), domain_xml(fork(), host), BOOT.token, "machine copy/boss")
    return ElementTree.fromstring(text)


def test_the_head_is_what_libvirt_reads() -> None:
    head = image_head("<domain/>")
    magic, version, length, _, compressed, cookie = struct.unpack_from("<16s5I", head)
    assert (magic, version, compressed, cookie) == (b"LibvirtQemudSave", 2, 0, 0)
    assert head[92:] == b"<domain/>\0"
    assert length == len(b"<domain/>\0")


def test_the_host_sees_the_copy() -> None:
    domain = restored()
    assert domain.findtext("name") == "fb-t0st-copy.boss"
    assert domain.findtext("uuid") == fork().machine.uuid
    assert domain.findtext("genid") == fork().machine.generation_uuid
    assert domain.findtext("title") == "copy/boss"
    identity = read_identity(domain)
    assert identity is not None
    assert identity.system_name == "copy"
    assert read_boot(domain) == BOOT
    for disk, wanted in zip(domain.iterfind("devices/disk"), fork().disks, strict=True):
        assert disk_serial(disk) == wanted.serial
        assert disk_files(disk) == (wanted.path, *(path for path, _ in wanted.chain))
        for source in disk.iterfind(".//backingStore/source"):
            label = source.find("seclabel")
            assert label is not None
            assert label.get("relabel") == "no"
    nic = domain.find("devices/interface")
    assert nic is not None
    assert [e.get("bridge") for e in nic.iterfind("source")] == ["fbt0stfork"]
    assert [e.get("dev") for e in nic.iterfind("target")] == ["fbt0stffffffff"]
    log = domain.find("devices/serial/log")
    assert log is not None
    assert log.get("file") == "/state/console/copy.log"
    text = ElementTree.tostring(domain, encoding="unicode")
    for of_the_original in ("/dev/pts/7", "/run/channel", "seclabel type", "boss-ops", "mach1.log"):
        assert of_the_original not in text


def test_the_guest_sees_what_it_saw() -> None:
    domain, original = restored(), ElementTree.fromstring(at_cut())
    for path in (
        "os/type",
        "memory",
        "vcpu",
        "vcpupin",
        "cpu",
        "devices/disk/address",
        "devices/disk/target",
        "devices/interface/address",
        "devices/interface/mac",
        "devices/channel/target",
        "devices/rng",
    ):
        found = [ElementTree.tostring(element) for element in domain.iterfind(path)]
        assert found == [ElementTree.tostring(element) for element in original.iterfind(path)] != [], path


def test_libvirt_asks_little_about_an_emulated_processor_only() -> None:
    asked = "{http://libvirt.org/schemas/domain/qemu/1.0}capabilities"
    emulated = restored_domain(at_cut(), domain_xml(fork(), EMULATED), BOOT.token, "machine copy/boss")
    again = restored_domain(emulated, domain_xml(fork(), EMULATED), BOOT.token, "machine copy/boss")
    assert [len(ElementTree.fromstring(text).findall(asked)) for text in (emulated, again)] == [1, 1]
    cut = at_cut(ACCELERATED)
    accelerated = restored_domain(cut, domain_xml(fork(), ACCELERATED), BOOT.token, "machine copy/boss")
    assert ElementTree.fromstring(accelerated).find(asked) is None


def test_a_memory_fits_its_own_kind_of_machine_only() -> None:
    for other in (
        replace(fork(), disks=fork().disks[:-1]),
        replace(fork(), nics=tuple(replace(nic, mac="52:54:00:00:00:99") for nic in fork().nics)),
    ):
        with pytest.raises(OperationalError) as failure:
            restored_domain(at_cut(), domain_xml(other, EMULATED), BOOT.token, "machine copy/boss")
        assert failure.value.kind is Kind.CONFLICT


def test_all_disks_are_cut_in_one_call_and_others_stay() -> None:
    live = ElementTree.fromstring(at_cut())
    order = CutOrder(samples.machine().id, (DiskCut("root", "/o/root"), DiskCut("vol-data", "/o/data")), True)
    snapshot = ElementTree.fromstring(snapshot_xml(live, order, "boss"))
    disks = [(d.get("name"), d.get("snapshot"), d.find("source")) for d in snapshot.iterfind("disks/disk")]
    assert [(name, how) for name, how, _ in disks] == [
        ("vda", "external"),
        ("vdb", "no"),
        ("vdc", "external"),
    ]
    assert [s.get("file") for _, _, s in disks if s is not None] == ["/o/root", "/o/data"]
    assert snapshot_xml(live, replace(order, disks=()), "boss") == ""
    with pytest.raises(OperationalError) as failure:
        snapshot_xml(live, replace(order, disks=(DiskCut("vol-new", "/o/new"),)), "boss")
    assert failure.value.kind is Kind.CONFLICT
    assert active_files(live) == ["/state/volumes/root1.qcow2", "/state/volumes/data1.qcow2"]


def test_the_room_for_a_memory() -> None:
    ram = 128 * samples.MEBIBYTE
    assert stream_limit_bytes(ElementTree.fromstring(at_cut())) == ram + ram // 256 + 128 * samples.MEBIBYTE


@pytest.mark.parametrize(
    ("path", "addition", "reason"),
    [
        ("devices", "<hostdev mode='subsystem' type='pci'/>", "VFIO"),
        ("devices", "<interface type='hostdev'/>", "VFIO"),
        ("devices", "<interface type='vhostuser'/>", "shares its memory"),
        ("devices", "<interface type='bridge'><driver name='vhost'/></interface>", "vhost-net"),
        ("devices", "<filesystem type='mount'><driver type='virtiofs'/></filesystem>", "virtiofs"),
        ("devices", "<disk type='vhostuser'/>", "shares its memory"),
        ("devices", "<vsock model='virtio'/>", "vhost-vsock"),
        ("devices", "<shmem name='x'/>", "shared memory"),
        ("devices", "<memory model='nvdimm'/>", "nvdimm"),
        (".", "<memoryBacking><access mode='shared'/></memoryBacking>", "shared memory"),
        ("cpu/numa", "<cell id='1' memAccess='shared'/>", "shared memory"),
    ],
)
def test_what_cannot_be_cut_live_is_named(path: str, addition: str, reason: str) -> None:
    live = ElementTree.fromstring(at_cut())
    assert refusal(live) == ""
    place = live.find(path)
    assert place is not None
    place.append(ElementTree.fromstring(addition))
    assert reason in refusal(live)
