"""One machine's part in a cut: made ready while it runs, frozen for as short as can be, its memory streamed out.

What can be done before the pause is done before it. A background snapshot writes the device state while the
machine stands still, then QEMU lets it go on, and memory follows as it was. Where that is not to be had, the machine
stands still until its memory is written. Every answer is checked: QEMU takes a `migrate` whose capability it has
refused for an ordinary one, which leaves the machine paused.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import libvirt
import libvirt_qemu
import structlog

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import SnapshotId
from forkbed.core.snapshots.records import FreezeMethod
from forkbed.core.systems.view import Power
from forkbed.drivers.libvirt.connection import close_quietly, open_beside
from forkbed.drivers.libvirt.domain_xml import agent_is_connected
from forkbed.drivers.libvirt.failures import is_disconnection, translate
from forkbed.drivers.libvirt.large_memory import LARGE_BYTES, Gathering, read_each_page
from forkbed.drivers.libvirt.memories import Memories, Memory
from forkbed.drivers.libvirt.monitor import Monitor, Stream
from forkbed.drivers.libvirt.power import power_of
from forkbed.drivers.libvirt.saveimage import disk_serial, disk_target
from forkbed.ports.cuts import CutOrder, CutOutcome

_BANDWIDTH = 64 * 1024**3  # no limit
_EARLIER_STREAM_S = 600.0
_USUAL_S = 0.05  # QEMU lets a small machine go on within this
_GO_ON_S = 4.0  # it goes through all page tables first: some 50 ms for each million pages
_LOOK_AGAIN_S = 0.005
_LOOK_SELDOM_S = 0.25
_LIBVIRT_AWAY_S = 120.0
_FREEZE_TIMEOUT_S = 5
_EVENTS = "^(STOP|RESUME|MIGRATION)$"
_DISKS_ONLY = (
    libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
)
_WRITTEN_WHILE_PAUSED = (
    "it stood still until its memory was written, which takes longer the more memory it has"
)
_log = structlog.get_logger(__name__)


class MachineFreeze:
    """Carries out one order. Its methods raise `OperationalError`; none but `stream_out` is called twice."""

    def __init__(
        self,
        uri: str,
        uuid: str,
        subject: str,
        order: CutOrder,
        gathering: Gathering,
        *,
        hold: bool,
        quiesce: bool,
    ) -> None:
        self.order = order
        self.uuid = uuid
        self.subject = subject
        self.memory: Memory | None = None
        self.memory_bytes = 0
        self.limit_bytes = 0
        self.is_clear = True  # nothing of ours is in QEMU
        self._abandoned = False
        self._uri = uri
        self._gathering = gathering
        self._hold = hold
        self.quiesces = quiesce and not order.memory  # memory holds what is not on the disks yet
        self._power = Power.OFF
        self._method = FreezeMethod.DISKS
        self._notes: list[str] = []
        self._asked_to_freeze = False
        self._quiesced = False
        self._connection: Any = None
        self._domain: Any = None
        self._name = ""
        self._monitor: Any = None
        self._event_id: int | None = None
        self._former_bandwidth: int | None = None
        self._snapshot = ""
        self._events = _Events()

    @property
    def streams(self) -> bool:
        """Whether memory follows while the machine runs on."""
        return self._method is FreezeMethod.BACKGROUND

    @property
    def is_large(self) -> bool:
        """Whether it may have large memories: a small one is spared the look."""
        return self.limit_bytes >= LARGE_BYTES

    @property
    def runs(self) -> bool:
        """Whether the machine ran before."""
        return self._power is Power.RUNNING

    def outcome(self) -> CutOutcome:
        return CutOutcome(
            machine_id=self.order.machine_id,
            power=self._power,
            method=self._method,
            frozen_at=self._events.frozen_at,
            resumed_at=self._events.resumed_at if self.runs else None,
            quiesced=self._quiesced,
            note="; ".join(self._notes),
        )

    def look(self) -> None:
        """Connect, and see whether the machine runs. CONFLICT if there is nothing to freeze."""
        try:
            self._connect()
            self._power = power_of(self._domain)
        except libvirt.libvirtError as error:
            raise translate(error, self.subject, "find it") from error
        if self._power not in (Power.RUNNING, Power.PAUSED):
            raise OperationalError(
                Kind.CONFLICT,
                self.subject,
                "it does not run, so it cannot be frozen",
                "cut its disks while it is off",
            )

    def prepare(self, memories: Memories, snapshot_id: SnapshotId) -> None:
        """All that can be done while the machine runs. CONFLICT if there is no room for its memory."""
        self._gathering.end(self._name)
        try:
            live = ElementTree.fromstring(self._domain.XMLDesc(0))
            self.limit_bytes = stream_limit_bytes(live)
            self._snapshot = snapshot_xml(live, self.order, self.subject)
            self._event_id = libvirt_qemu.qemuMonitorEventRegister(
                self._connection,
                self._domain,
                _EVENTS,
                self._events.on_event,
                None,
                libvirt_qemu.VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX,
            )
            self._await_no_stream()
            if self.order.memory:
                self._prepare_memory(memories, snapshot_id, live)
        except libvirt.libvirtError as error:
            raise translate(error, self.subject, "prepare its cut") from error

    def quiesce(self) -> None:
        """Ask the agent to freeze the file systems; without an answer in time the cut goes on without."""
        if not self.quiesces or not self.runs:
            return
        self._asked_to_freeze = True
        try:
            libvirt_qemu.qemuAgentCommand(
                self._domain, '{"execute": "guest-fsfreeze-freeze"}', _FREEZE_TIMEOUT_S, 0
            )
            self._quiesced = True
        except libvirt.libvirtError as error:
            self._notes.append(f"not quiesced: {error.get_error_message()}")

    def freeze(self) -> None:
        """Stop the machine's processors."""
        if not self.runs:
            self._events.note_freeze()
            return
        try:
            self._domain.suspend()
        except libvirt.libvirtError as error:
            raise translate(error, self.subject, "freeze it") from error
        self._events.note_freeze()

    def cut(self) -> None:
        """While all machines stand still: put the disks on their overlays, begin the stream, let it go on."""
        try:
            if self._snapshot:
                self._domain.snapshotCreateXML(self._snapshot, _DISKS_ONLY)
            if self._abandoned:
                raise self._given_up()
            if self.order.memory:
                self._monitor.begin_stream()
            if self._method is FreezeMethod.BACKGROUND:
                self._await_running()
            elif self._method is FreezeMethod.DISKS and not self._hold:
                self.resume()
        except libvirt.libvirtError as error:
            raise translate(error, self.subject, "cut it") from error

    def resume(self) -> None:
        """Let the machine go on if it ran before."""
        if not self.runs:
            return
        try:
            if power_of(self._domain) is Power.PAUSED:
                let_go_on(self._domain)
        except libvirt.libvirtError as error:
            raise translate(error, self.subject, "let it go on") from error
        self._events.note_resume()

    def thaw(self) -> bool:
        """Thaw the file systems; False if the agent gave no answer, to this or to the freezing: ask again later."""
        if not self._asked_to_freeze:
            return True
        try:
            libvirt_qemu.qemuAgentCommand(
                self._domain, '{"execute": "guest-fsfreeze-thaw"}', _FREEZE_TIMEOUT_S, 0
            )
        except libvirt.libvirtError as error:
            _log.warning("cut.not-thawed", machine=self.order.machine_id, error=str(error))
            return not agent_is_connected(ElementTree.fromstring(self._domain.XMLDesc(0)))
        return True

    def stream_out(self) -> None:
        """Wait for the stream's end, clear up in QEMU, and call the memory complete. FAULT if it failed."""
        if self.memory is None:
            return
        try:
            stream = self._await_stream_end()
            self._clear_up()
            if not stream.is_complete:
                raise OperationalError(
                    Kind.FAULT,
                    self.subject,
                    f"its memory was not written: QEMU says {stream.status} {stream.error}".rstrip(),
                    "look at the space below the state directory, and at QEMU's log",
                )
            if self.streams and self._monitor.status() == "postmigrate":
                self._domain.resume()
                raise OperationalError(
                    Kind.FAULT, self.subject, "its memory was written from the running machine, so it is void"
                )
            self.memory_bytes = self.memory.complete()
            if self._method is FreezeMethod.PAUSED and self.runs and not self._hold:
                self.resume()
        except (OperationalError, libvirt.libvirtError) as error:
            told = (
                error
                if isinstance(error, OperationalError)
                else translate(error, self.subject, "write its memory")
            )
            self.memory.fail(told.brief)
            raise told from error

    def gather_pages(self) -> None:
        """Undo what a background snapshot does to the pages of a large machine; takes seconds."""
        self._for_speed(self._gathering.gather)

    def abandon(self, reason: str) -> None:
        """The cut has failed: do nothing more, and forget the memory."""
        self._abandoned = True
        if self.memory is not None:
            self.memory.fail(reason)

    def close(self) -> None:
        """Give up the connection."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        event_id, self._event_id = self._event_id, None
        if event_id is not None:
            with suppress(libvirt.libvirtError):
                libvirt_qemu.qemuMonitorEventDeregister(connection, event_id)
        self._domain = self._monitor = None  # they would keep it open
        close_quietly(connection)

    def _connect(self) -> None:
        self._connection = open_beside(self._uri)
        self._domain = self._connection.lookupByUUIDString(self.uuid)
        self._name = str(self._domain.name())
        self._monitor = Monitor(self._domain, self.subject)

    def _await_no_stream(self) -> None:
        """An earlier cut's stream may still be under way; a capability it left on is cleared."""
        deadline = time.monotonic() + _EARLIER_STREAM_S
        while not self._monitor.stream().is_over:
            if time.monotonic() > deadline:
                raise OperationalError(
                    Kind.BUSY, self.subject, "its memory is still being written for something else"
                )
            time.sleep(_LOOK_SELDOM_S)
        if self._monitor.background_is_on():
            self._monitor.set_background(False)

    def _prepare_memory(self, memories: Memories, snapshot_id: SnapshotId, live: Element) -> None:
        flags = libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE
        self.memory = memories.begin(
            snapshot_id, self.order.machine_id, self.limit_bytes, self.subject, lasting=self.order.lasting
        )
        self.memory.describe(self._domain.XMLDesc(flags))
        if self.runs and not self._hold and self.is_large:
            self._for_speed(read_each_page)
        if self._abandoned:
            raise self._given_up()
        self.is_clear = False
        self._former_bandwidth = self._monitor.bandwidth()
        self._monitor.set_bandwidth(_BANDWIDTH)
        self._monitor.hand_over(self.memory.descriptor)
        self._method = FreezeMethod.PAUSED
        if not self.runs:
            self._leave_postmigrate()
        elif not self._hold:
            try:
                self._monitor.set_background(True)
                self._method = FreezeMethod.BACKGROUND
            except OperationalError as error:
                self._notes.append(f"{error.brief}; so {_WRITTEN_WHILE_PAUSED}")
        for path in active_files(live):
            with suppress(OSError):  # what is on the disk already need not be written while it stands still
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fdatasync(descriptor)
                finally:
                    os.close(descriptor)

    def _given_up(self) -> OperationalError:
        return OperationalError(Kind.FAULT, self.subject, "the cut was given up")

    def _for_speed(self, act: Callable[[str], None]) -> None:
        """Do what the cut can do without."""
        try:
            act(self._name)
        except (OSError, ValueError) as error:
            _log.info("cut.slower", machine=self.order.machine_id, without=act.__name__, error=str(error))

    def _leave_postmigrate(self) -> None:
        """QEMU writes the memory of a paused machine only once; to do so again, it has to have run."""
        if self._monitor.status() == "postmigrate":
            self._domain.resume()
            self._domain.suspend()
            self._notes.append("it ran for some milliseconds, since QEMU cannot save a paused machine twice")

    def _await_running(self) -> None:
        """QEMU lets the machine go on by itself; from 9.0 on only one that it has stopped itself.

        Its device state is saved once pages of memory are on their way. If it went on before that, its memory would
        be of a later time than its disks. Raises FAULT if that does not come.
        """
        deadline = time.monotonic() + _GO_ON_S
        while not self._events.resumed.wait(_USUAL_S):
            if self._monitor.status() == "running":
                break
            stream = self._monitor.stream()
            if stream.pages:
                let_go_on(self._domain)
                break
            if stream.is_over or time.monotonic() > deadline:
                raise OperationalError(
                    Kind.FAULT,
                    self.subject,
                    f"QEMU has not saved its state within {_GO_ON_S:g} s: {stream.status} {stream.error}".rstrip(),
                    "look at how busy the host is, and try again",
                )
        self._events.note_resume()

    def _await_stream_end(self) -> Stream:
        """How the stream ended. Survives a restart of libvirtd, during which it goes on."""
        away_since: float | None = None
        while True:
            try:
                if away_since is not None:
                    self.close()
                    self._connect()
                    away_since = None
                stream: Stream = self._monitor.stream()
                if stream.is_over:
                    return stream
                # QEMU tells of the end; should that get lost, we look for ourselves now and then.
                self._events.migrated.wait(_LOOK_SELDOM_S)
                self._events.migrated.clear()
            except libvirt.libvirtError as error:
                if not is_disconnection(error):
                    raise
                now = time.monotonic()
                away_since = away_since if away_since is not None else now
                if now - away_since > _LIBVIRT_AWAY_S:
                    raise
                time.sleep(_LOOK_SELDOM_S)

    def _clear_up(self) -> None:
        """The capability must not outlive the stream: libvirt knows nothing of it."""
        self._monitor.set_background(False)
        if self._former_bandwidth is not None:
            self._monitor.set_bandwidth(self._former_bandwidth)
        self.is_clear = True


class _Events:
    """When QEMU says that the machine stopped and went on; our own clock where it says nothing."""

    def __init__(self) -> None:
        self.resumed = threading.Event()
        self.migrated = threading.Event()
        self._said: dict[str, float] = {}
        self._own: dict[str, float] = {}

    def on_event(
        self,
        _connection: Any,
        _domain: Any,
        event: str,
        seconds: int,
        micros: int,
        details: str | None,
        _opaque: object,
    ) -> None:
        """Runs in the event loop's thread."""
        self._said.setdefault(event, seconds + micros / 1e6)
        if event == "RESUME":
            self.resumed.set()
        elif event == "MIGRATION" and json.loads(details or "{}").get("status") in ("completed", "failed"):
            self.migrated.set()

    def note_freeze(self) -> None:
        self._own.setdefault("STOP", time.time())

    def note_resume(self) -> None:
        self._own.setdefault("RESUME", time.time())

    @property
    def frozen_at(self) -> float:
        return self._said.get("STOP", self._own.get("STOP", time.time()))

    @property
    def resumed_at(self) -> float | None:
        return self._said.get("RESUME", self._own.get("RESUME"))


def snapshot_xml(live: Element, order: CutOrder, subject: str) -> str:
    """What libvirt is to do with the disks of a running domain: all overlays at once, other disks stay. "" if none.

    Raises CONFLICT for a disk that the machine does not have.
    """
    overlays = {disk.serial: disk.overlay for disk in order.disks}
    if not overlays:
        return ""
    snapshot = Element("domainsnapshot")
    disks = SubElement(snapshot, "disks")
    for disk in live.iterfind("devices/disk"):
        overlay = overlays.pop(disk_serial(disk), None)
        element = SubElement(disks, "disk", name=disk_target(disk), snapshot="external" if overlay else "no")
        if overlay:
            SubElement(element, "driver", type="qcow2")
            SubElement(element, "source", file=overlay)
    if overlays:
        raise OperationalError(
            Kind.CONFLICT, subject, f"it runs without the disk {', '.join(sorted(overlays))}", "restart it"
        )
    return ElementTree.tostring(snapshot, encoding="unicode")


def stream_limit_bytes(live: Element) -> int:
    """The most that a running domain's memory may take on its way out: RAM, its page heads, video, devices."""
    memory = live.find("memory")
    kib = int(memory.text or "0") if memory is not None else 0
    video_kib = sum(
        int(model.get(kind, "0"))
        for model in live.iterfind("devices/video/model")
        for kind in ("vram", "ram", "vgamem")
    )
    ram = kib * 1024
    return ram + ram // 256 + video_kib * 1024 + 128 * 1024**2


def let_go_on(domain: Any) -> None:
    """Resume the domain, unless it goes on just then: by QEMU's own doing, or by the guard's."""
    try:
        domain.resume()
    except libvirt.libvirtError:
        if power_of(domain) is not Power.RUNNING:
            raise


def active_files(live: Element) -> list[str]:
    """The files that a running domain writes to."""
    found = []
    for disk in live.iterfind("devices/disk"):
        source = disk.find("source")
        if source is not None and disk.find("readonly") is None:
            found.append(source.get("file", ""))
    return [path for path in found if path]
