"""Let go what a cut has frozen, end what it began, and leave QEMU as if it had never been there.

Done by the guard, by the controller after a failure, and by the next controller at its start; by several at once
without harm. A request that its sender did not live to see answered may still be carried out, so one look is never
enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import libvirt
import libvirt_qemu
import structlog

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers.libvirt.domain_xml import agent_is_connected
from forkbed.drivers.libvirt.monitor import Monitor
from forkbed.drivers.libvirt.pauses import Pause, PausedMachine, Phase

CallLibvirt = Callable[[str, str, Callable[[Any], Any]], Any]
"""Calls a function with the connection: (subject, action, function)."""

_THAW = '{"execute": "guest-fsfreeze-thaw"}'
_THAW_TIMEOUT_S = 3
_THAW_AGAIN_S = 1.0
_THAW_PATIENCE_S = 3600.0  # an agent that is merely slow freezes after everybody gave up waiting for it
_LOOK_AGAIN_S = 0.05
_ECHO_S = 0.5  # a request of somebody who died is carried out within this time
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Machine:
    """How far one machine is."""

    wanted: PausedMachine
    calm_since: float | None = None  # found as it should be ever since
    released: bool = False  # for long enough; if it stands still again, somebody wants that
    thawed: bool = False
    next_thaw: float = 0.0


class Release:
    """Brings everything back that one note names, step by step: `attempt` until it returns True."""

    def __init__(self, pause: Pause, call: CallLibvirt) -> None:
        self._pause = pause
        self._call = call
        self._machines = [_Machine(wanted) for wanted in pause.note.machines]
        self._thaw_until = time.monotonic() + _THAW_PATIENCE_S

    @property
    def all_run(self) -> bool:
        """Whether every machine goes on for good; a stream, or a thaw that gets no answer, may still be left."""
        return all(machine.released or machine.calm_since is not None for machine in self._machines)

    def run(self) -> None:
        """Attempt until it is done, however long libvirtd is away."""
        while not self._attempt_patiently():
            time.sleep(_LOOK_AGAIN_S)

    def attempt(self) -> bool:
        """Do what can be done now; True once nothing is left to do, and the note is gone. Never waits for long.

        Raises UNREACHABLE while libvirtd is away.
        """
        with ThreadPoolExecutor(len(self._machines)) as pool:
            done = all(list(pool.map(self._settle, self._machines)))
        if done:
            self._pause.remove()
        return done

    def _attempt_patiently(self) -> bool:
        try:
            return self.attempt()
        except OperationalError as error:
            _log.info("release.waits", purpose=self._pause.note.purpose, error=str(error))
            return False

    def _settle(self, machine: _Machine) -> bool:
        """Whether nothing is left to do for the machine."""
        subject = f"domain {machine.wanted.uuid}"
        try:
            calm = bool(self._call(subject, "let it go on", lambda c: self._settle_domain(c, machine)))
        except OperationalError as error:
            if error.kind is Kind.UNREACHABLE:
                raise
            _log.warning("release.failed", subject=subject, error=str(error), remedy=error.remedy)
            calm = False
        if not calm:
            machine.calm_since = None
            return False
        now = time.monotonic()
        machine.calm_since = machine.calm_since if machine.calm_since is not None else now
        machine.released |= now - machine.calm_since > _ECHO_S
        return machine.released and (machine.thawed or not machine.wanted.thaw or now > self._thaw_until)

    def _settle_domain(self, connection: Any, machine: _Machine) -> bool:
        """Do what is to be done now; returns whether the machine was found as it should be."""
        try:
            domain = connection.lookupByUUIDString(machine.wanted.uuid)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                machine.thawed = True
                return True
            raise
        if not domain.isActive():
            machine.thawed = True
            return True
        calm = True
        background = streams = False
        if machine.wanted.streams and not machine.released:
            monitor = Monitor(domain, f"domain {domain.name()}")
            background, streams = monitor.background_is_on(), not monitor.stream().is_over
            calm = not (background or streams)
            if streams and not background:
                monitor.cancel_plain_stream()  # else it would stop the machine once more at its end
        if self._pause.phase is not Phase.STANDBY:
            if machine.wanted.runs and not machine.released and _resume(domain):
                calm = False
            if machine.wanted.thaw and not machine.thawed:
                self._thaw(domain, machine)
        if background and not streams:
            # In this order: a late `migrate` finds no file, rather than becoming a plain stream.
            with suppress(OperationalError):  # there is none if the stream was begun
                monitor.take_back()
            monitor.set_background(False)
        return calm

    def _thaw(self, domain: Any, machine: _Machine) -> None:
        """Thaw the file systems, or find that nobody can."""
        now = time.monotonic()
        if now < machine.next_thaw:
            return
        try:
            libvirt_qemu.qemuAgentCommand(domain, _THAW, _THAW_TIMEOUT_S, 0)
            machine.thawed = True
        except libvirt.libvirtError as error:
            # Without an agent nothing can have been frozen; one that gives no answer may have heard us.
            machine.thawed = not agent_is_connected(ElementTree.fromstring(domain.XMLDesc(0)))
            machine.next_thaw = now + _THAW_AGAIN_S
            _log.info("release.not-thawed", domain=domain.name(), error=str(error), final=machine.thawed)


def _resume(domain: Any) -> bool:
    """Resume the domain if it is paused; returns whether it was."""
    if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
        return False
    domain.resume()
    _log.info("release.resumed", domain=domain.name())
    return True
