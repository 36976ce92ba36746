"""Tell one boot of a guest from the next, also across restarts of libvirtd and of the controller.

A boot's identity is kept in the live domain's metadata: a token drawn when the domain is first seen running (a
stop discards live metadata, so each start gets a new one), and the number of resets since, counted at libvirt's
reboot events. A reset while nobody listened is found by the guest kernel's own boot id, which the agent tells when
it first connects in a boot and each time we connect to libvirtd; it is not found for a guest without an agent, or
when it fell between the start and the first answer of the agent.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import libvirt
import libvirt_qemu

from forkbed.drivers.libvirt.domain_xml import BOOT_NAMESPACE, Boot, boot_xml, read_boot

_KERNEL_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_AGENT_TIMEOUT_S = 5


class Boots:
    """Names boots. Methods take libvirt domains and raise libvirt's errors; they may be called from any thread."""

    def __init__(self) -> None:
        # One a domain: naming a boot waits for a start under way, and must not hold up the others.
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def of(self, domain: Any, live: ElementTree.Element) -> Boot:
        """The boot of a running domain with this XML; names it if nobody did yet."""
        boot = read_boot(live)
        if boot is not None:
            return boot
        return self._change(domain, lambda present: present)[1]

    def count_reset(self, domain: Any) -> Boot:
        """The guest was reset: a new boot, whose kernel is not known yet."""
        return self._change(domain, lambda boot: replace(boot, resets=boot.resets + 1, kernel=""))[1]

    def learn_kernel(self, domain: Any) -> None:
        """Ask the guest which boot it is in, unless that is known."""
        boot = read_boot(ElementTree.fromstring(domain.XMLDesc(0)))
        if boot is None or not boot.kernel:
            self.compare_kernel(domain)

    def compare_kernel(self, domain: Any) -> bool:
        """Ask the guest which boot it is in; returns whether that revealed a reset nobody had counted."""
        kernel = _ask_kernel(domain)
        before, after = self._change(domain, lambda boot: seen_kernel(boot, kernel))
        return before.resets != after.resets

    def _change(self, domain: Any, change: Callable[[Boot], Boot]) -> tuple[Boot, Boot]:
        with self._locks[str(domain.UUIDString())]:
            live = ElementTree.fromstring(domain.XMLDesc(0))
            present = read_boot(live)
            before = present or Boot(secrets.token_hex(8))
            after = change(before)
            if after != present:
                domain.setMetadata(
                    libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                    boot_xml(after),
                    "forkbed-boot",
                    BOOT_NAMESPACE,
                    libvirt.VIR_DOMAIN_AFFECT_LIVE,
                )
            return before, after


def seen_kernel(boot: Boot, kernel: str) -> Boot:
    """The boot after its guest said that its kernel's boot id is `kernel`."""
    if boot.kernel and boot.kernel != kernel:
        return replace(boot, resets=boot.resets + 1, kernel=kernel)
    return replace(boot, kernel=kernel)


def _ask_kernel(domain: Any) -> str:
    handle = _agent(domain, "guest-file-open", path=_KERNEL_BOOT_ID, mode="r")
    try:
        content = _agent(domain, "guest-file-read", handle=handle, count=100)
    finally:
        _agent(domain, "guest-file-close", handle=handle)
    return base64.b64decode(content["buf-b64"]).decode(errors="replace").strip()


def _agent(domain: Any, command: str, **arguments: object) -> Any:
    text = json.dumps({"execute": command, "arguments": arguments})
    return json.loads(libvirt_qemu.qemuAgentCommand(domain, text, _AGENT_TIMEOUT_S, 0))["return"]
