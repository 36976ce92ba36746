"""Let libvirt bring a machine back from a memory, also one that is still being written.

libvirt reads a named pipe that this process feeds: first the head with our XML, then QEMU's stream, as far as it
has got. The pipe is open for writing before libvirt is asked, so libvirtd never waits for a writer that died; when
this process dies, the reader sees an early end, and there is no machine rather than half of one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import select
import struct
import termios
import threading
import time
from pathlib import Path
from typing import Any

import libvirt

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers.libvirt.memories import Memory
from forkbed.drivers.libvirt.saveimage import image_head

_PIPE_BYTES = 1024**2
_WORTH_A_TURN_BYTES = 256 * 1024
_TURN_S = 0.0005  # QEMU takes 32 KiB at a time, and needs the processor itself
_LOOK_AGAIN_S = 0.002
_LONGEST_LOOK_S = 0.05
_READY_MS = 100
_STALL_S = 60.0  # nothing was taken for so long: whoever reads has hung


class Pipes:
    """The named pipes below one directory, which nobody but root may enter."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def restore(self, connection: Any, memory: Memory, domain: str) -> None:
        """Have libvirt bring back the domain with this XML; returns when it stands paused.

        Raises libvirt's error, FAULT if the memory turned out incomplete.
        """
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._directory / secrets.token_hex(8)
        os.mkfifo(path, 0o600)
        try:
            # Open for both: to open it for writing alone would wait for the reader.
            feeder = _Feeder(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC), memory)
            thread = threading.Thread(
                target=feeder.run, args=(image_head(domain),), name="memory-feed", daemon=True
            )
            thread.start()
            try:
                connection.restoreFlags(str(path), None, libvirt.VIR_DOMAIN_SAVE_PAUSED)
            except libvirt.libvirtError as error:
                feeder.end()
                thread.join()
                if feeder.failure is not None:
                    raise feeder.failure from error
                raise
            finally:
                feeder.end()
                thread.join()
        finally:
            path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove the pipes of a process that died. Only while nobody else restores."""
        for path in self._directory.glob("*"):
            # libvirtd may still be waiting for a writer: let it see the end.
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            path.unlink(missing_ok=True)


class _Feeder:
    """Writes head and stream into the pipe until all is written, or nobody reads any more."""

    def __init__(self, pipe: int, memory: Memory) -> None:
        with contextlib.suppress(OSError):  # only fewer changes between us and the reader
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._pipe = pipe
        self._memory = memory
        self._ended = threading.Event()
        self.failure: OperationalError | None = None

    def end(self) -> None:
        """The reader has all it wants."""
        self._ended.set()

    def run(self, head: bytes) -> None:
        try:
            if self._write(head):
                self._write_stream()
        except OSError as error:
            self.failure = OperationalError(
                Kind.FAULT, str(self._memory.path), f"cannot be read: {error.strerror}"
            )
        finally:
            self._await_empty()
            os.close(self._pipe)

    def _await_empty(self) -> None:
        """What is in the pipe is lost with our end of it, and a reader that has yet to come would wait for ever."""
        deadline = time.monotonic() + _STALL_S
        while not self._ended.is_set() and time.monotonic() < deadline:
            waiting = fcntl.ioctl(self._pipe, termios.FIONREAD, struct.pack("i", 0))
            if struct.unpack("i", waiting) == (0,):
                return
            time.sleep(_LOOK_AGAIN_S)

    def _write(self, data: bytes) -> bool:
        view = memoryview(data)
        while view:
            if not self._await_reader():
                return False
            view = view[os.write(self._pipe, view[: select.PIPE_BUF]) :]
        return True

    def _write_stream(self) -> None:
        position, pause_s = 0, _LOOK_AGAIN_S
        while not self._ended.is_set():
            size, over = self._memory.extent()
            if position < size:
                if not self._await_reader():
                    return
                sent = self._send(position, size - position)
                if sent < _WORTH_A_TURN_BYTES:
                    time.sleep(_TURN_S)
                position += sent
                pause_s = _LOOK_AGAIN_S
            elif over:
                if self._memory.failure:
                    self.failure = OperationalError(
                        Kind.FAULT,
                        str(self._memory.path),
                        f"the memory is not complete: {self._memory.failure}",
                    )
                return
            else:
                time.sleep(pause_s)
                pause_s = min(pause_s * 1.5, _LONGEST_LOOK_S)

    def _send(self, position: int, size: int) -> int:
        try:
            return os.sendfile(self._pipe, self._memory.descriptor, position, min(size, _PIPE_BYTES))
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return 0
            raise

    def _await_reader(self) -> bool:
        """Wait until the pipe takes more; False if nobody wants more."""
        patience = select.poll()
        patience.register(self._pipe, select.POLLOUT)
        deadline = time.monotonic() + _STALL_S
        while not self._ended.is_set():
            if patience.poll(_READY_MS):
                return True
            if time.monotonic() > deadline:
                return False
        return False
