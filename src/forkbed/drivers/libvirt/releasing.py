"""Let go what a cut has frozen, end what it began, and leave QEMU as if it had never been there.

Done by the guard, by the controller after a failure, and by the next controller at its start; by several at once
without harm. A request that its sender did not live to see answered may still be carried out, so one look is never
enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import libvirt
import libvirt_qemu
import structlog

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers.libvirt.monitor import Monitor
from forkbed.drivers.libvirt.pauses import Pause, PausedMachine, Phase

CallLibvirt = Callable[[str, str, Callable[[Any], Any]], Any]
"""Calls a function with the connection: (subject, action, function)."""

_THAW = '{"execute": "guest-fsfreeze-thaw"}'
_THAW_TIMEOUT_S = 3
_THAW_TRIES = 5
_LOOK_AGAIN_S = 0.05
_ECHO_S = 0.5  # a request of somebody who died is carried out within this time
_log = structlog.get_logger(__name__)


class Release:
    """Brings everything back that one note names, step by step: `attempt` until it returns True."""

    def __init__(self, pause: Pause, call: CallLibvirt) -> None:
        self._pause = pause
        self._call = call
        self._thaws: dict[str, int] = {}
        self._quiet_since: float | None = None

    def run(self) -> None:
        """Attempt until it is done, however long libvirtd is away."""
        while True:
            try:
                if self.attempt():
                    return
            except OperationalError as error:
                _log.info("release.waits", purpose=self._pause.note.purpose, error=str(error))
            time.sleep(_LOOK_AGAIN_S)

    def attempt(self) -> bool:
        """Do what can be done now; True once nothing is left to do, and the note is gone. Never waits for long.

        Raises UNREACHABLE while libvirtd is away.
        """
        machines = self._pause.note.machines
        with ThreadPoolExecutor(len(machines)) as pool:
            quiet = all(list(pool.map(self._settle, machines)))
        now = time.monotonic()
        if not quiet:
            self._quiet_since = None
            return False
        if self._quiet_since is None:
            self._quiet_since = now
        if now - self._quiet_since < _ECHO_S:
            return False
        self._pause.remove()
        return True

    def _settle(self, machine: PausedMachine) -> bool:
        """Whether the machine was found as it should be, and nothing had to be done."""
        try:
            return bool(
                self._call(
                    f"domain {machine.uuid}",
                    "let it go on",
                    lambda connection: self._settle_domain(connection, machine),
                )
            )
        except OperationalError as error:
            if error.kind is Kind.UNREACHABLE:
                raise
            _log.warning("release.failed", domain=machine.uuid, error=str(error), remedy=error.remedy)
            return False

    def _settle_domain(self, connection: Any, machine: PausedMachine) -> bool:
        try:
            domain = connection.lookupByUUIDString(machine.uuid)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return True
            raise
        if not domain.isActive():
            return True
        monitor = Monitor(domain, f"domain {domain.name()}")
        background, streams = monitor.background_is_on(), not monitor.stream().is_over
        quiet = not (background or streams)
        if streams and not background:
            monitor.cancel_plain_stream()  # else it would stop the machine once more at its end
        if self._pause.phase is not Phase.STANDBY:
            if machine.runs and _resume(domain):
                quiet = False
            if machine.thaw and not self._thaw(domain, machine.uuid):
                quiet = False
        if background and not streams:
            monitor.set_background(False)
        return quiet

    def _thaw(self, domain: Any, uuid: str) -> bool:
        """Whether the file systems are thawed, or nobody can thaw them."""
        tries = self._thaws.get(uuid, 0)
        if tries >= _THAW_TRIES:
            return True
        try:
            libvirt_qemu.qemuAgentCommand(domain, _THAW, _THAW_TIMEOUT_S, 0)
        except libvirt.libvirtError as error:
            _log.info("release.not-thawed", domain=domain.name(), error=str(error))
            self._thaws[uuid] = tries + 1
            return False
        self._thaws[uuid] = _THAW_TRIES
        return True


def _resume(domain: Any) -> bool:
    """Resume the domain if it is paused; returns whether it was."""
    if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
        return False
    domain.resume()
    _log.info("release.resumed", domain=domain.name())
    return True
