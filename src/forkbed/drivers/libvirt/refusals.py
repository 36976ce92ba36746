"""Why a machine's memory cannot be kept while it runs. Pure.

A background snapshot has to see every write to memory. Devices that write by themselves, and processes that
share the memory, would change it unseen.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

_SHARING_DISKS = frozenset({"vhostuser", "vhostvdpa"})
_SHARING_NICS = frozenset({"vhostuser", "vdpa"})


def refusal(live: Element) -> str:
    """Why the memory of the running domain with this XML cannot be cut; "" if it can."""
    return "; ".join(dict.fromkeys(_reasons(live)))


def _reasons(live: Element) -> Iterator[str]:
    devices = live.find("devices")
    if devices is None:
        return
    if devices.find("hostdev") is not None:
        yield "uses a host device (VFIO)"
    for nic in devices.iterfind("interface"):
        kind = nic.get("type")
        driver = nic.find("driver")
        if kind == "hostdev":
            yield "uses a host device (VFIO)"
        elif kind in _SHARING_NICS:
            yield f"shares its memory with another process (a NIC of type {kind})"
        elif driver is not None and driver.get("name") == "vhost":
            yield "has a NIC that the host's kernel serves (vhost-net)"
    if any(disk.get("type") in _SHARING_DISKS for disk in devices.iterfind("disk")):
        yield "shares its memory with another process (a vhost disk)"
    if any(d.find("driver[@type='virtiofs']") is not None for d in devices.iterfind("filesystem")):
        yield "shares its memory with another process (virtiofs)"
    if devices.find("vsock") is not None:
        yield "has a device that the host's kernel serves (vhost-vsock)"
    for model in devices.iterfind("memory"):
        if model.get("model") in ("nvdimm", "virtio-pmem", "virtio-mem"):
            yield f"has memory of model {model.get('model')}"
    access = live.find("memoryBacking/access")
    shared_cells = live.findall("cpu/numa/cell[@memAccess='shared']")
    if shared_cells or (access is not None and access.get("mode") == "shared"):
        yield "has shared memory"
    if devices.find("shmem") is not None:
        yield "has shared memory (shmem)"
