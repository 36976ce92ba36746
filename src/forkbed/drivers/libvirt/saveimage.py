"""What libvirt's save images look like, and what a machine becomes that goes on from one. Pure.

libvirt resumes a machine from a file that begins with a header and the domain's XML, followed by QEMU's own
stream. It would refuse our changes to the XML of a file it wrote itself; so we keep stream and XML apart, and put
an XML of our own in front. libvirt documents the layout in its source only (`qemu_saveimage.h`); version 2 has been
the same since 2010.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers.libvirt.domain_xml import Boot, boot_element, read_boot

_MAGIC = b"LibvirtQemudSave"
_VERSION = 2
_WAS_RUNNING, _NOT_COMPRESSED, _NO_COOKIE = 1, 0, 0
_HEADER = struct.Struct(f"<{len(_MAGIC)}s5I56x")  # the rest is unused
_QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
_CAPABILITIES, _DELETION = (f"{{{_QEMU_NAMESPACE}}}{tag}" for tag in ("capabilities", "del"))
ElementTree.register_namespace("qemu", _QEMU_NAMESPACE)
_EMULATED = "qemu"
_IDENTITY = ("name", "uuid", "genid", "title", "metadata")
_OF_THE_DEFINITION = {"disk": ("driver", "source", "backingStore"), "interface": ("source", "target")}


def image_head(domain: str) -> bytes:
    """What comes before QEMU's stream for the domain with this XML.

    The words on whether it ran are overridden by the flags of the restoring call.
    """
    text = domain.encode() + b"\0"
    return _HEADER.pack(_MAGIC, _VERSION, len(text), _WAS_RUNNING, _NOT_COMPRESSED, _NO_COOKIE) + text


def restored_domain(at_cut: str, defined: str, boot_token: str, subject: str) -> str:
    """The XML of the machine that goes on: the guest sees what it saw at the cut, the host what is `defined`.

    `at_cut` is the migratable XML of the machine whose memory it is, `defined` the persistent XML of the one that
    goes on. From the latter come name, ids and our metadata, files of disks with their whole chains, bridges, taps
    and logs. `boot_token` names the new life, which the guest's kernel takes for the same one. Raises CONFLICT if the
    two have other disks or NICs.
    """
    domain, definition = ElementTree.fromstring(at_cut), ElementTree.fromstring(defined)
    former = read_boot(domain)
    _take(domain, definition, _IDENTITY)
    metadata = domain.find("metadata")
    if metadata is None or read_boot(definition) is not None:
        raise ValueError("that is no persistent definition of ours")
    metadata.append(boot_element(Boot(boot_token, kernel=former.kernel if former is not None else "")))
    for label in domain.findall("seclabel"):  # as the emulator of the original had it
        domain.remove(label)
    for kind, key in (("disk", disk_serial), ("interface", _mac)):
        present = {key(e): e for e in domain.iterfind(f"devices/{kind}")}
        wanted = {key(e): e for e in definition.iterfind(f"devices/{kind}")}
        if present.keys() != wanted.keys():
            raise OperationalError(
                Kind.CONFLICT,
                subject,
                f"the memory belongs to a machine with other devices: {_words(present)}, not {_words(wanted)}",
                "take a snapshot of the machine as it is now, or start it without the memory",
            )
        for name, element in present.items():
            _take(element, wanted[name], _OF_THE_DEFINITION[kind])
    for channel in domain.iterfind("devices/channel"):
        _remove(channel, "source")  # a socket whose path has the original's name in it
    for kind in ("serial", "console"):
        wanted_ports = list(definition.iterfind(f"devices/{kind}"))
        for element, port in zip(domain.iterfind(f"devices/{kind}"), wanted_ports, strict=False):
            _remove(element, "source")  # the pseudo terminal of the original
            _take(element, port, ("log",))
    _look_at_processors_briefly(domain)
    return ElementTree.tostring(domain, encoding="unicode")


def _look_at_processors_briefly(domain: Element) -> None:
    """Have libvirt ask QEMU for the features of an emulated processor with two questions, not with 400.

    QEMU reads questions byte by byte, so the 400 take a quarter of a second of processor for each machine while its
    memory waits to be read; and nothing depends on the answers, since emulation is the same on every host. With KVM
    it is left at that: two questions tell nothing of features that stand in model-specific registers.
    """
    if domain.get("type") != _EMULATED or domain.find(_CAPABILITIES) is not None:
        return
    SubElement(SubElement(domain, _CAPABILITIES), _DELETION, capability="cpu-unavailable-features")


def disk_serial(disk: Element) -> str:
    """The serial number by which we name a disk."""
    return disk.findtext("serial", "")


def disk_target(disk: Element) -> str:
    """libvirt's name of the disk, such as `vda`."""
    target = disk.find("target")
    return target.get("dev", "") if target is not None else ""


def disk_files(disk: Element) -> tuple[str, ...]:
    """The files that a disk of a running domain consists of, active layer first."""
    return tuple(_files(disk))


def _files(disk: Element) -> Iterator[str]:
    layer: Element | None = disk
    while layer is not None:
        source = layer.find("source")
        if source is not None:
            yield source.get("file", "")
        layer = layer.find("backingStore")


def _mac(interface: Element) -> str:
    mac = interface.find("mac")
    return mac.get("address", "").lower() if mac is not None else ""


def _take(element: Element, other: Element, tags: tuple[str, ...]) -> None:
    """Have the `tags` in `element` be as in `other`, at the same place if there was one."""
    for tag in tags:
        present, wanted = element.find(tag), other.find(tag)
        place = list(element).index(present) if present is not None else len(element)
        if present is not None:
            element.remove(present)
        if wanted is not None:
            element.insert(place, copy.deepcopy(wanted))


def _remove(element: Element, tag: str) -> None:
    for child in element.findall(tag):
        element.remove(child)


def _words(names: Mapping[str, Element]) -> str:
    return ", ".join(sorted(names)) or "none"
