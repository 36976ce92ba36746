"""The libvirt domain of a machine: golden files, and what is read back from a domain.

After a wanted change: FORKBED_WRITE_GOLDEN=1 pytest tests/unit/drivers/test_domain_xml.py, and read the difference.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import libvirt
import pytest

from forkbed.base.ids import InstallationId, MachineId, SystemId
from forkbed.core.systems.names import domain_name
from forkbed.core.systems.view import Power
from forkbed.drivers.libvirt.boots import seen_kernel
from forkbed.drivers.libvirt.domain_xml import (
    BOOT_NAMESPACE,
    Boot,
    HostShape,
    agent_is_connected,
    boot_xml,
    domain_xml,
    read_boot,
    read_identity,
    read_machine_type,
)
from forkbed.drivers.libvirt.power import power_from
from forkbed.ports.hypervisor import DiskAttachment, MachineDefinition
from tests.unit.drivers import samples

GOLDEN = Path(__file__).parent / "golden"
EMULATED = HostShape(
    installation=InstallationId("t0st"),
    domain_type="qemu",
    emulator="/usr/bin/qemu-system-x86_64",
    machine_type="pc-q35-7.2",
    cpu_model="qemu64",
    console_log="/state/console/mach1.log",
)
ACCELERATED = replace(EMULATED, domain_type="kvm", cpu_model="Nehalem")


def large() -> MachineDefinition:
    """Two NICs, a chain of two layers, enough memory to grow."""
    machine = samples.machine("ops", number=2, cpus=4, memory_bytes=2048 * samples.MEBIBYTE)
    definition = samples.definition(machine)
    root = DiskAttachment(
        "root",
        "/state/volumes/cut2.qcow2",
        "qcow2",
        chain=(("/state/volumes/cut1.qcow2", "qcow2"), ("/state/images/ab.raw", "raw")),
    )
    second = replace(definition.nics[0], tap="fbt0st0000000b", mac="52:54:00:00:00:0b", bridge="br0")
    return replace(definition, disks=(root, *definition.disks[1:]), nics=(*definition.nics, second))


@pytest.mark.parametrize(
    ("name", "definition", "host"),
    [("micro-tcg", samples.definition(), EMULATED), ("large-kvm", None, ACCELERATED)],
)
def test_golden(name: str, definition: MachineDefinition | None, host: HostShape) -> None:
    text = domain_xml(definition or large(), host)
    path = GOLDEN / f"{name}.xml"
    if os.environ.get("FORKBED_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_the_same_definition_gives_the_same_text_and_any_change_another_shape() -> None:
    definition = samples.definition()
    text = domain_xml(definition, EMULATED)
    assert text == domain_xml(samples.definition(), EMULATED)
    for other, host in (
        (replace(definition, digest="d2"), EMULATED),
        (replace(definition, disks=definition.disks[:2]), EMULATED),
        (definition, ACCELERATED),
    ):
        identity = read_identity(ElementTree.fromstring(domain_xml(other, host)))
        assert identity != read_identity(ElementTree.fromstring(text))


def test_identity_comes_back() -> None:
    domain = ElementTree.fromstring(domain_xml(samples.definition(), EMULATED))
    identity = read_identity(domain)
    assert identity is not None
    assert identity.installation == "t0st"
    assert (identity.system_id, identity.system_name) == (SystemId("sys1"), "boss-ops")
    assert (identity.machine_id, identity.name) == (MachineId("mach1"), "boss")
    assert (identity.revision, identity.digest) == (3, "d1")
    assert read_machine_type(domain) == "pc-q35-7.2"
    assert domain.findtext("name") == domain_name(InstallationId("t0st"), "boss-ops", "boss")


def test_a_foreign_domain_has_no_identity() -> None:
    domain = ElementTree.fromstring(
        "<domain><name>fb-t0st-x</name><metadata><a xmlns='urn:b'/></metadata></domain>"
    )
    assert read_identity(domain) is None
    assert read_boot(domain) is None
    assert not agent_is_connected(domain)


def test_names_cannot_break_out_of_the_xml() -> None:
    definition = replace(samples.definition(), system_name="a</title><os/>&\"'", digest='"><x/>')
    domain = ElementTree.fromstring(domain_xml(definition, EMULATED))
    assert domain.findtext("title") == "a</title><os/>&\"'/boss"
    assert len(domain.findall("os")) == 1


def test_every_layer_below_the_active_one_keeps_its_owner_and_the_chain_ends_explicitly() -> None:
    domain = ElementTree.fromstring(domain_xml(large(), ACCELERATED))
    disk = domain.find("devices/disk")
    assert disk is not None
    layers = []
    backing = disk.find("backingStore")
    while backing is not None and len(backing):
        source = backing.find("source")
        label = backing.find("source/seclabel")
        assert source is not None and label is not None
        assert (label.get("model"), label.get("relabel")) == ("dac", "no")
        layers.append(source.get("file"))
        backing = backing.find("backingStore")
    assert layers == ["/state/volumes/cut1.qcow2", "/state/images/ab.raw"]
    assert backing is not None


def test_there_are_spare_ports_for_devices_plugged_in_later() -> None:
    definition = large()
    domain = ElementTree.fromstring(domain_xml(definition, ACCELERATED))
    ports = [c for c in domain.iterfind("devices/controller") if c.get("model") == "pcie-root-port"]
    assert len(ports) == 4
    on_root_bus = [
        (a.get("slot"), a.get("function"))
        for a in domain.iterfind("devices//address")
        if a.get("bus") == "0x00"
    ]
    assert len(on_root_bus) == len(set(on_root_bus)) == len(definition.disks) + len(definition.nics) + 3


def test_boots_are_written_and_read() -> None:
    boot = Boot("t0ken", 3, "kernel-id")
    element = ElementTree.fromstring(boot_xml(boot))
    element.tag = f"{{{BOOT_NAMESPACE}}}{element.tag}"  # as libvirt shows it
    domain = ElementTree.Element("domain")
    ElementTree.SubElement(domain, "metadata").append(element)
    assert read_boot(domain) == boot
    assert boot.id == "t0ken.3"


def test_a_kernel_that_changed_without_a_counted_reset_is_a_new_boot() -> None:
    fresh = Boot("t", 0)
    known = seen_kernel(fresh, "k1")
    assert known == Boot("t", 0, "k1")
    assert seen_kernel(known, "k1") == known
    assert seen_kernel(known, "k2") == Boot("t", 1, "k2")
    counted = replace(known, resets=1, kernel="")  # what a reset event leaves
    assert seen_kernel(counted, "k2") == Boot("t", 1, "k2")


@pytest.mark.parametrize(
    ("state", "reason", "power"),
    [
        (libvirt.VIR_DOMAIN_RUNNING, 0, Power.RUNNING),
        (libvirt.VIR_DOMAIN_SHUTDOWN, 0, Power.RUNNING),
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER, Power.PAUSED),
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP, Power.RUNNING),
        (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN, Power.OFF),
        (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED, Power.CRASHED),
        (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN, Power.OFF),
        (libvirt.VIR_DOMAIN_CRASHED, 0, Power.CRASHED),
    ],
)
def test_power(state: int, reason: int, power: Power) -> None:
    assert power_from(state, reason) is power
