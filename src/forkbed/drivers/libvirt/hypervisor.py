"""`ports.hypervisor` with libvirt: this installation's domains on one host.

A domain is ours if its name begins with the installation's prefix and its metadata says so; all others are as if
they were not there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import libvirt
import libvirt_qemu

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import InstallationId, MachineId
from forkbed.core.systems.names import domain_of, domain_prefix
from forkbed.core.systems.planner import ALIVE
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import Power
from forkbed.drivers.libvirt import domain_xml
from forkbed.drivers.libvirt.boots import Boots
from forkbed.drivers.libvirt.connection import Connection
from forkbed.drivers.libvirt.console import LibvirtConsole
from forkbed.drivers.libvirt.failures import translate
from forkbed.drivers.libvirt.logs import console_words, emulator_words, read_log, remove_log
from forkbed.drivers.libvirt.power import is_active, power_of
from forkbed.drivers.libvirt.watching import Watching
from forkbed.ports.hypervisor import ConsoleStream, HypervisorMachine, MachineDefinition, MachineEvent

T = TypeVar("T")
_LOOK_TIMEOUT_S = 15.0
_CHANGE_TIMEOUT_S = 30.0
_START_TIMEOUT_S = 120.0
_FORCE_OFF_TIMEOUT_S = 60.0  # libvirt itself gives QEMU some 15 s
_LOOK_TRIES = 5
_ARCHITECTURE = "x86_64"
_MACHINE_FAMILY = "q35"
_UNDEFINE_ALL = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


@dataclass(frozen=True, slots=True)
class LibvirtSettings:
    """Where libvirt is, and what holds for every machine of the installation on this host.

    `has_kvm` must answer from a proof by booting a guest; the presence of /dev/kvm proves nothing. `cpu_model` empty
    means the baseline that fits: one that every x86-64 server of the last decade has, or QEMU's own when it emulates.
    """

    installation: InstallationId
    uri: str
    has_kvm: Callable[[], bool]  # asked at each definition: the first image brings the kernel that proves it
    console_dir: Path
    cpu_model: str = ""
    emulator_log_dir: Path = Path("/var/log/libvirt/qemu")

    @property
    def domain_type(self) -> str:
        return "kvm" if self.has_kvm() else "qemu"

    @property
    def cpu_baseline(self) -> str:
        # An emulated Intel model makes the guest isolate its page tables, which emulation pays dearly for.
        return self.cpu_model or ("Nehalem" if self.has_kvm() else "qemu64")


@dataclass(frozen=True, slots=True)
class _Emulator:
    path: str
    newest_machine_type: str


@dataclass(frozen=True, slots=True)
class _Known:
    """How a machine was last found, to find it again and to call it by its name."""

    uuid: str
    title: str  # SYSTEM/MACHINE


class LibvirtHypervisor:
    """The machines of one installation on the host that libvirt manages. Thread-safe."""

    def __init__(self, settings: LibvirtSettings) -> None:
        """Connects when first needed, so a libvirtd that is down fails calls, not the start of Forkbed."""
        self._settings = settings
        self._prefix = domain_prefix(settings.installation)
        self._boots = Boots()
        self._known: dict[MachineId, _Known] = {}
        self._emulator: _Emulator | None = None
        self._watching = Watching(self._boots, self._identify)
        self._connection = Connection(settings.uri, self._watching.on_event)
        self._watching.attach(self._connection)
        settings.console_dir.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def uri(self) -> str:
        """Where libvirt is."""
        return self._settings.uri

    def close(self) -> None:
        """End the connection to libvirt; machines run on."""
        self._connection.close()

    def machines(self) -> Sequence[HypervisorMachine]:
        """All machines of this installation. See `ports.hypervisor`."""

        def look(connection: Any) -> list[HypervisorMachine]:
            domains = [domain for domain in connection.listAllDomains(0) if self._is_named_ours(domain)]
            return [seen for domain in domains if (seen := self._look_at(domain)) is not None]

        found = self._connection.call(
            look, subject="libvirt", action="list machines", timeout_s=_LOOK_TIMEOUT_S
        )
        return sorted(found, key=lambda machine: machine.machine_id)

    def machine(self, machine_id: MachineId) -> HypervisorMachine | None:
        """One machine of this installation; None if it is not defined."""
        try:
            return self.on_domain(machine_id, "look at it", self._look_at, timeout_s=_LOOK_TIMEOUT_S)
        except OperationalError as error:
            if error.kind is Kind.NOT_FOUND:
                return None
            raise

    def power(self, machine_id: MachineId) -> Power:
        """What the machine does. See `ports.hypervisor`."""
        try:
            return self.on_domain(machine_id, "look what it does", power_of, timeout_s=_LOOK_TIMEOUT_S)
        except OperationalError as error:
            if error.kind is Kind.NOT_FOUND:
                return Power.ABSENT
            raise

    def define(self, definition: MachineDefinition) -> Effect:
        """Write the persistent definition; ALREADY if it is the same to the letter."""
        machine = definition.machine

        def define(connection: Any) -> Effect:
            present = self._present_definition(connection, machine.uuid)
            emulator = self._look_for_emulator(connection)
            kept_type = domain_xml.read_machine_type(present) if present is not None else ""
            shape = domain_xml.HostShape(
                installation=self._settings.installation,
                domain_type=self._settings.domain_type,
                emulator=emulator.path,
                machine_type=kept_type or emulator.newest_machine_type,
                cpu_model=self._settings.cpu_baseline,
                console_log=str(self._console_log(machine.id)),
            )
            text = domain_xml.domain_xml(definition, shape)
            identity = domain_xml.read_identity(present) if present is not None else None
            if identity == domain_xml.read_identity(ElementTree.fromstring(text)):
                return Effect.ALREADY
            try:
                # Not held against libvirt's schema, which takes longer than all else: a test does that.
                connection.defineXML(text)
            except libvirt.libvirtError as error:
                name = domain_of(self._settings.installation, definition.system_name, machine)
                _refuse_taken_name(connection, subject, name, machine.uuid)
                raise translate(error, subject, "define it") from error
            return Effect.CHANGED

        subject = f"machine {definition.system_name}/{machine.name}"
        effect = self._connection.call(
            define, subject=subject, action="define it", timeout_s=_CHANGE_TIMEOUT_S
        )
        self._known[machine.id] = _Known(machine.uuid, f"{definition.system_name}/{machine.name}")
        return effect

    def undefine(self, machine_id: MachineId) -> Effect:
        """Remove the definition, the console log and QEMU's log. CONFLICT while the machine runs."""

        def undefine(domain: Any) -> str:
            if is_active(domain):
                raise OperationalError(
                    Kind.CONFLICT,
                    self.subject(machine_id),
                    "cannot be removed while it runs",
                    "stop it first",
                )
            name = str(domain.name())
            domain.undefineFlags(_UNDEFINE_ALL)
            return name

        try:
            name = self.on_domain(machine_id, "remove its definition", undefine)
        except OperationalError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            name = ""
        self._known.pop(machine_id, None)
        logs = [self._console_log(machine_id)] + ([self.emulator_log(name)] if name else [])
        try:
            for log in logs:
                remove_log(log)
        except OSError as error:
            raise OperationalError(
                Kind.FAULT, f"machine {machine_id}", f"its logs cannot be removed: {error.strerror}"
            ) from error
        return Effect.CHANGED if name else Effect.ALREADY

    def start(self, machine_id: MachineId) -> Effect:
        """Start from the persistent definition. See `ports.hypervisor`."""

        def start(domain: Any) -> Effect:
            if is_active(domain):
                return Effect.ALREADY
            try:
                domain.createWithFlags(0)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID and is_active(domain):
                    return Effect.ALREADY  # somebody else was quicker
                details = (
                    *(f"qemu: {line}" for line in emulator_words(self.emulator_log(domain.name()))),
                    *(f"console: {line}" for line in console_words(self._console_log(machine_id))),
                )
                raise translate(error, self.subject(machine_id), "start", details=details) from error
            with suppress(
                libvirt.libvirtError
            ):  # it may have ended already; whoever looks next names the boot
                self._boots.of(domain, ElementTree.fromstring(domain.XMLDesc(0)))
            return Effect.CHANGED

        return self.on_domain(machine_id, "start", start, timeout_s=_START_TIMEOUT_S)

    def shut_down(self, machine_id: MachineId) -> Effect:
        """Ask the guest to shut down, through the agent if it is there. A paused guest is resumed to hear it."""

        def shut_down(domain: Any) -> Effect:
            if not is_active(domain):
                return Effect.ALREADY
            if power_of(domain) is Power.PAUSED:
                domain.resume()
            live = ElementTree.fromstring(domain.XMLDesc(0))
            if domain_xml.agent_is_connected(live):
                try:
                    domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
                    return Effect.CHANGED
                except libvirt.libvirtError:
                    if not is_active(domain):
                        return Effect.CHANGED
            domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
            return Effect.CHANGED

        return self.on_domain(machine_id, "ask it to shut down", shut_down)

    def force_off(self, machine_id: MachineId) -> Effect:
        """End the machine at once."""

        def force_off(domain: Any) -> Effect:
            if not is_active(domain):
                return Effect.ALREADY
            try:
                domain.destroyFlags(0)
            except libvirt.libvirtError:
                if is_active(domain):
                    raise
            return Effect.CHANGED

        return self.on_domain(machine_id, "end it", force_off, timeout_s=_FORCE_OFF_TIMEOUT_S)

    def pause(self, machine_id: MachineId) -> Effect:
        """Stop the machine's processors. CONFLICT if it does not run."""

        def pause(domain: Any) -> Effect:
            if power_of(domain) is Power.PAUSED:
                return Effect.ALREADY
            domain.suspend()
            return Effect.CHANGED

        return self.on_domain(machine_id, "pause it", pause)

    def resume(self, machine_id: MachineId) -> Effect:
        """Let a paused machine go on. CONFLICT if it does not run."""

        def resume(domain: Any) -> Effect:
            if power_of(domain) is Power.RUNNING:
                return Effect.ALREADY
            domain.resume()
            return Effect.CHANGED

        return self.on_domain(machine_id, "resume it", resume)

    def open_console(self, machine_id: MachineId) -> ConsoleStream:
        """The serial console; takes it over from whoever has it."""

        def open_console(domain: Any) -> ConsoleStream:
            stream = domain.connect().newStream(libvirt.VIR_STREAM_NONBLOCK)
            domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
            return LibvirtConsole(stream, self.subject(machine_id))

        return self.on_domain(machine_id, "open its console", open_console)

    def console_log(self, machine_id: MachineId, *, tail_bytes: int | None = None) -> bytes:
        """What the guest wrote to its serial console, over all its boots."""
        return read_log(self._console_log(machine_id), tail_bytes=tail_bytes)

    def watch(self, listener: Callable[[MachineEvent], None]) -> Callable[[], None]:
        """Call `listener` for what happens by itself, from one thread and in order.

        CONNECTION_LOST comes twice: when libvirtd is lost, and when it is back, because events were missed.
        """
        end = self._watching.add(listener)
        self._connection.connect_in_background()
        return end

    def agent_command(self, machine_id: MachineId, command: str, timeout_s: float) -> str:
        """The guest agent's answer to a command, both as JSON text. UNREACHABLE if it does not answer."""

        def ask(domain: Any) -> str:
            return str(libvirt_qemu.qemuAgentCommand(domain, command, max(1, round(timeout_s)), 0))

        return self.on_domain(machine_id, "ask its agent", ask, timeout_s=timeout_s + _LOOK_TIMEOUT_S)

    def description(self) -> dict[str, str]:
        """Versions, acceleration, machine type and CPU."""

        def look(connection: Any) -> dict[str, str]:
            emulator = self._look_for_emulator(connection)
            return {
                "uri": self._settings.uri,
                "host": str(connection.getHostname()),
                "libvirt": _dotted(connection.getLibVersion()),
                "qemu": _dotted(connection.getVersion()),
                "acceleration": "kvm" if self._settings.has_kvm() else "tcg",
                "machine_type": emulator.newest_machine_type,
                "cpu_model": self._settings.cpu_baseline,
            }

        return self._connection.call(
            look, subject="libvirt", action="describe the host", timeout_s=_LOOK_TIMEOUT_S
        )

    def on_domain(
        self,
        machine_id: MachineId,
        action: str,
        function: Callable[[Any], T],
        *,
        timeout_s: float = _CHANGE_TIMEOUT_S,
    ) -> T:
        """The result of `function(domain)` for the machine. NOT_FOUND if it has no domain."""
        return self._connection.call(
            lambda connection: function(self._find(connection, machine_id)),
            subject=self.subject(machine_id),
            action=action,
            timeout_s=timeout_s,
        )

    def emulator_log(self, name: str) -> Path:
        """Where libvirt keeps what QEMU says of the domain of that name."""
        return self._settings.emulator_log_dir / f"{name}.log"

    def on_host(self, subject: str, action: str, function: Callable[[Any], T]) -> T:
        """The result of `function(connection)`."""
        return self._connection.call(function, subject=subject, action=action, timeout_s=_LOOK_TIMEOUT_S)

    def _find(self, connection: Any, machine_id: MachineId) -> Any:
        known = self._known.get(machine_id)
        if known is not None:
            with suppress(libvirt.libvirtError):
                domain = connection.lookupByUUIDString(known.uuid)
                if self._is_named_ours(domain):
                    return domain
        others = {known.uuid for known in list(self._known.values())}  # one machine has a UUID for good
        for domain in connection.listAllDomains(0):
            if domain.UUIDString() not in others and self._identify(domain) == machine_id:
                return domain
        raise OperationalError(
            Kind.NOT_FOUND,
            f"machine {machine_id}",
            "libvirt knows no such machine",
            "`forkbed up` defines machines that are missing",
        )

    def _is_named_ours(self, domain: Any) -> bool:
        return str(domain.name()).startswith(self._prefix)

    def _identify(self, domain: Any) -> MachineId | None:
        """Which of our machines the domain is."""
        if not self._is_named_ours(domain):
            return None
        try:
            identity = domain_xml.read_identity(_parse(domain.XMLDesc(0)))
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise
        if identity is None or identity.installation != self._settings.installation:
            return None
        self._remember(domain, identity)
        return identity.machine_id

    def _look_at(self, domain: Any) -> HypervisorMachine | None:
        """The machine as it is now; None if the domain is not ours or has been undefined meanwhile."""
        for _ in range(_LOOK_TRIES):
            try:
                live = _parse(domain.XMLDesc(0))
                seen = self._describe(domain, live)
                if is_active(domain) == _runs(live) and (seen is None or _fits(seen)):
                    return seen
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                    raise
            # It started or stopped while it was looked at, so the parts would not fit together.
        raise OperationalError(
            Kind.BUSY, f"domain {domain.name()}", "starts and stops faster than it can be looked at"
        )

    def _describe(self, domain: Any, live: ElementTree.Element) -> HypervisorMachine | None:
        identity = domain_xml.read_identity(live)
        if identity is None or identity.installation != self._settings.installation:
            return None
        runs = _runs(live)
        defined = identity
        if runs:
            inactive = _parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
            defined = domain_xml.read_identity(inactive) or identity
        persistent = not runs or domain.isPersistent()
        # Before its state: naming a boot waits for a start that is under way, whose state is still "off".
        boot_id = self._boots.of(domain, live).id if runs else ""
        self._remember(domain, identity)
        return HypervisorMachine(
            machine_id=identity.machine_id,
            system_id=identity.system_id,
            name=identity.name,
            power=power_of(domain),
            definition_digest=defined.digest if persistent else "",
            running_digest=identity.digest if runs else "",
            boot_id=boot_id,
        )

    def _remember(self, domain: Any, identity: domain_xml.Identity) -> None:
        title = f"{identity.system_name}/{identity.name}"
        self._known[identity.machine_id] = _Known(str(domain.UUIDString()), title)

    def subject(self, machine_id: MachineId) -> str:
        known = self._known.get(machine_id)
        return f"machine {known.title if known else machine_id}"

    def _present_definition(self, connection: Any, uuid: str) -> ElementTree.Element | None:
        try:
            domain = connection.lookupByUUIDString(uuid)
            return ElementTree.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def _look_for_emulator(self, connection: Any) -> _Emulator:
        """The host's emulator. Asked once: it costs libvirt a QEMU start after each upgrade."""
        if self._emulator is None:
            text = connection.getDomainCapabilities(
                None, _ARCHITECTURE, _MACHINE_FAMILY, self._settings.domain_type, 0
            )
            capabilities = ElementTree.fromstring(text)
            self._emulator = _Emulator(
                capabilities.findtext("path", ""), capabilities.findtext("machine", "")
            )
        return self._emulator

    def _console_log(self, machine_id: MachineId) -> Path:
        return self._settings.console_dir / f"{machine_id}.log"


@lru_cache(maxsize=256)
def _parse(description: str) -> ElementTree.Element:
    """A domain's description, to be read only: most are the same as at the look before."""
    return ElementTree.fromstring(description)


def _runs(live: ElementTree.Element) -> bool:
    """Whether libvirt described a running domain: only those have a number."""
    return live.get("id") is not None


def _fits(seen: HypervisorMachine) -> bool:
    """Whether what was asked one after the other can have been true at one time."""
    return not (seen.power is Power.OFF and seen.boot_id) and not (seen.power in ALIVE and not seen.boot_id)


def _refuse_taken_name(connection: Any, subject: str, name: str, uuid: str) -> None:
    """Raise CONFLICT if another domain has the name: `a` with `b-c` and `a-b` with `c` give the same."""
    try:
        holder = connection.lookupByName(name)
    except libvirt.libvirtError:
        return
    if holder.UUIDString() != uuid:
        raise OperationalError(
            Kind.CONFLICT,
            subject,
            f"libvirt has another domain named {name}",
            "give the machine or the system another name",
        )


def _dotted(version: int) -> str:
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"
