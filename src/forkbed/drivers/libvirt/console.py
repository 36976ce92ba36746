"""An open serial console: libvirt's stream as bytes with a limit on waiting.

The stream does not block; the event loop's thread takes what came in and puts it aside. When nobody fetches it, the
stream is no longer read, so the daemon on the other end stops too.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Self

import libvirt

from forkbed.drivers.libvirt.failures import translate

_CHUNK_BYTES = 32 * 1024
_KEPT_BYTES = 256 * 1024
_WOULD_BLOCK = -2
_WRITE_PAUSE_S = 0.01
_UNREAD = libvirt.VIR_STREAM_EVENT_HANGUP | libvirt.VIR_STREAM_EVENT_ERROR
_ALL = _UNREAD | libvirt.VIR_STREAM_EVENT_READABLE


class LibvirtConsole:
    """`ports.hypervisor.ConsoleStream` on a stream that libvirt has connected already."""

    def __init__(self, stream: Any, subject: str) -> None:
        self._stream = stream
        self._subject = subject
        self._received = bytearray()
        self._ended = False
        self._paused = False
        self._condition = threading.Condition()
        stream.eventAddCallback(_ALL, self._on_event, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._condition:
            self._ended = True
            self._condition.notify_all()
        try:
            self._stream.eventRemoveCallback()
            self._stream.abort()
        except libvirt.libvirtError:
            pass  # it ended by itself, or libvirtd is gone

    def read(self, timeout_s: float) -> bytes | None:
        """Bytes the guest wrote; b"" when nothing came in time; None when the console ended."""
        with self._condition:
            self._condition.wait_for(lambda: self._received or self._ended, timeout_s)
            if not self._received:
                return None if self._ended else b""
            data = bytes(self._received)
            self._received.clear()
            if self._paused and not self._ended:
                self._paused = False
                self._stream.eventUpdateCallback(_ALL)
            return data

    def write(self, data: bytes) -> None:
        """Type into the console; waits while the guest does not take it. Dropped once the console ended."""
        view = memoryview(data)
        while view and not self._ended:
            try:
                sent = self._stream.send(bytes(view[:_CHUNK_BYTES]))
            except libvirt.libvirtError as error:
                raise translate(error, self._subject, "write to its console") from error
            if sent == _WOULD_BLOCK:
                time.sleep(_WRITE_PAUSE_S)
            else:
                view = view[sent:]

    def _on_event(self, stream: Any, events: int, _opaque: object) -> None:
        """Runs in the event loop's thread."""
        with self._condition:
            try:
                if events & libvirt.VIR_STREAM_EVENT_READABLE:
                    self._take(stream)
            except libvirt.libvirtError:
                self._ended = True
            if events & _UNREAD:
                self._ended = True
            if self._ended:
                stream.eventUpdateCallback(0)
            self._condition.notify_all()

    def _take(self, stream: Any) -> None:
        while len(self._received) <= _KEPT_BYTES:
            data = stream.recv(_CHUNK_BYTES)
            if data == _WOULD_BLOCK:
                return
            if not data:
                self._ended = True
                return
            self._received += data
        self._paused = True
        stream.eventUpdateCallback(_UNREAD)
