"""A connection to libvirtd that may hang or die: every call has a limit, and it comes back by itself.

libvirt's default event loop runs in one thread of this process. A call runs in a thread of its own, so that one
which never returns costs its caller no more than the limit; libvirt's keep-alive ends it later. The event loop's
thread only puts events into a queue: talking to libvirt from it would block every answer.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, TypeVar

import libvirt
import structlog

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers.libvirt.failures import translate

T = TypeVar("T")
_IN_MEMORY = "TEST"
_MAXIMUM_CALLS = 64
_KEEP_ALIVE_INTERVAL_S = 5
_QUICK_KEEP_ALIVE_INTERVAL_S = 2  # where machines stand still meanwhile
_KEEP_ALIVE_COUNT = 3
_RETRY_S = 0.2
_PATIENCE_S = 3.0  # libvirtd is usually back sooner when it is restarted
_log = structlog.get_logger(__name__)
_event_loop_lock = threading.Lock()
_event_loop_runs = False  # libvirt has one default event loop a process, so this cannot be an object's


@dataclass(frozen=True, slots=True)
class Connected:
    """libvirtd answers; `again`: after the connection was lost, so events may have been missed."""

    again: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """libvirtd died or went silent."""


@dataclass(frozen=True, slots=True)
class DomainEvent:
    """One of libvirt's events about a domain. `event` and `detail` are libvirt's numbers, or its word."""

    event_id: int
    uuid: str
    event: int = 0
    detail: int | str = 0


Event = Connected | Lost | DomainEvent


class Connection:
    """libvirt at one URI. `listener` is called from one thread, in order, and may itself use `call`."""

    def __init__(self, uri: str, listener: Callable[[Event], None]) -> None:
        self._uri = uri
        self._listener = listener
        self._lock = threading.Lock()
        self._connection: Any = None
        self._was_connected = False
        self._closed = threading.Event()
        self._calls = threading.BoundedSemaphore(_MAXIMUM_CALLS)
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        _run_event_loop()
        threading.Thread(target=self._deliver, name="libvirt-events", daemon=True).start()

    def call(self, function: Callable[[Any], T], *, subject: str, action: str, timeout_s: float) -> T:
        """The result of `function(connection)`.

        Raises UNREACHABLE after `timeout_s` or if libvirtd does not answer, else what libvirt's error means
        ("`subject`: cannot `action`: …"). A call without an answer may still have its effect.
        """
        if not self._calls.acquire(timeout=timeout_s):
            raise _no_answer(subject, action, timeout_s)
        future: Future[T] = Future()
        threading.Thread(target=self._run, args=(function, future), name="libvirt-call", daemon=True).start()
        try:
            return future.result(timeout_s)
        except FutureTimeoutError:
            raise _no_answer(subject, action, timeout_s) from None
        except libvirt.libvirtError as error:
            raise translate(error, subject, action) from error

    def connect_in_background(self) -> None:
        """See to it that events arrive, now or as soon as libvirtd is there."""
        threading.Thread(target=self._keep_trying, name="libvirt-connect", daemon=True).start()

    def close(self) -> None:
        """End the connection; the object cannot be used after that."""
        self._closed.set()
        self._events.put(None)
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            close_quietly(connection)

    def _run(self, function: Callable[[Any], T], future: Future[T]) -> None:
        try:
            future.set_result(function(self._connected()))
        except BaseException as error:  # noqa: BLE001  handed to the caller, whoever made it
            future.set_exception(error)
        finally:
            self._calls.release()

    def _connected(self) -> Any:
        """The connection, opened anew where necessary, with some patience for a libvirtd that is starting."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self._open()
            except libvirt.libvirtError:
                if time.monotonic() > deadline or self._closed.wait(_RETRY_S):
                    raise

    def _open(self) -> Any:
        with self._lock:
            if self._connection is not None:
                if self._connection.isAlive():
                    return self._connection
                close_quietly(self._connection)
                self._connection = None
            connection = libvirt.open(self._uri)
            if connection.getType() != _IN_MEMORY:  # there the other end cannot die alone
                connection.setKeepAlive(_KEEP_ALIVE_INTERVAL_S, _KEEP_ALIVE_COUNT)
                connection.registerCloseCallback(self._on_close, None)
            self._register(connection)
            self._connection = connection
            self._events.put(Connected(again=self._was_connected))
            self._was_connected = True
            return connection

    def _register(self, connection: Any) -> None:
        handlers = {
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE: self._on_lifecycle,
            libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE: self._on_agent,
            libvirt.VIR_DOMAIN_EVENT_ID_REBOOT: self._on_reboot,
            libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON: self._on_io_error,
        }
        for event_id, handler in handlers.items():
            connection.domainEventRegisterAny(None, event_id, handler, event_id)

    def _on_lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, event_id: int) -> None:
        self._events.put(DomainEvent(event_id, domain.UUIDString(), event, detail))

    def _on_agent(self, _connection: Any, domain: Any, state: int, reason: int, event_id: int) -> None:
        self._events.put(DomainEvent(event_id, domain.UUIDString(), state, reason))

    def _on_reboot(self, _connection: Any, domain: Any, event_id: int) -> None:
        self._events.put(DomainEvent(event_id, domain.UUIDString()))

    def _on_io_error(
        self,
        _connection: Any,
        domain: Any,
        source: str,
        _alias: str,
        _action: int,
        reason: str,
        event_id: int,
    ) -> None:
        self._events.put(
            DomainEvent(event_id, domain.UUIDString(), detail=f"{reason or 'I/O error'}: {source}")
        )

    def _on_close(self, _connection: Any, reason: int, _opaque: object) -> None:
        if not self._closed.is_set():
            _log.warning("libvirt.lost", uri=self._uri, reason=reason)
            self._events.put(Lost())
            self.connect_in_background()

    def _keep_trying(self) -> None:
        while not self._closed.is_set():
            try:
                self._connected()
                return
            except libvirt.libvirtError as error:
                _log.info("libvirt.unreachable", uri=self._uri, error=str(error))

    def _deliver(self) -> None:
        while (event := self._events.get()) is not None:
            self._listener(event)


def open_beside(uri: str) -> Any:
    """A connection for one purpose, which no other call can hold up: libvirtd works on few requests of each at a time.

    The caller closes it. Raises libvirt's error.
    """
    _run_event_loop()
    connection = libvirt.open(uri)
    connection.setKeepAlive(_QUICK_KEEP_ALIVE_INTERVAL_S, _KEEP_ALIVE_COUNT)
    return connection


def _no_answer(subject: str, action: str, timeout_s: float) -> OperationalError:
    return OperationalError(
        Kind.UNREACHABLE,
        subject,
        f"cannot {action}: libvirt gave no answer for {timeout_s:g} s",
        "`forkbed doctor` tells how libvirt is",
    )


def close_quietly(connection: Any) -> None:
    """Close a connection that may be broken."""
    try:
        connection.close()
    except libvirt.libvirtError as error:
        _log.debug("libvirt.close-failed", error=str(error))


def _run_event_loop() -> None:
    """Start libvirt's event loop unless it runs, and keep libvirt from printing errors that we tell ourselves."""
    global _event_loop_runs
    with _event_loop_lock:
        if _event_loop_runs:
            return
        libvirt.registerErrorHandler(_ignore, None)
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_loop, name="libvirt-loop", daemon=True).start()
        _event_loop_runs = True


def _loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _ignore(_context: object, _error: object) -> None:
    return None
