"""A machine for the API's tests: commands run as local processes in a directory, the console echoes."""

from __future__ import annotations

import os
import pty
import queue
import selectors
import signal
import struct
import subprocess
import termios
from fcntl import ioctl
from pathlib import Path
from typing import Self

from forkbed.ports.guests import CommandRequest


class LocalCommand:
    """A `CommandChannel` on a local process."""

    def __init__(
        self, request: CommandRequest, directory: Path, *, via: str = "ssh", notice: str = ""
    ) -> None:
        self.via = via
        self.notice = notice
        self.killed = False
        self._terminal: int | None = None
        environment = {"PATH": os.environ["PATH"], "FORKBED_USER": request.user, "HOME": str(directory)}
        argv = list(request.argv) or ["sh"]
        if request.terminal:
            self._terminal, inner = pty.openpty()
            self.resize(*request.terminal)
            self.process = subprocess.Popen(
                argv,
                cwd=directory,
                env=environment,
                stdin=inner,
                stdout=inner,
                stderr=inner,
                start_new_session=True,
            )
            os.close(inner)
            self._input, self._outputs = self._terminal, {self._terminal: "stdout"}
        else:
            self.process = subprocess.Popen(
                argv,
                cwd=directory,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            assert self.process.stdin and self.process.stdout and self.process.stderr
            self._input = self.process.stdin.fileno()
            self._outputs = {self.process.stdout.fileno(): "stdout", self.process.stderr.fileno(): "stderr"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.killed = True
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self._terminal is not None:
            os.close(self._terminal)
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()

    def read(self, timeout_s: float) -> tuple[str, bytes] | None:
        if not self._outputs:
            return None
        with selectors.DefaultSelector() as selector:
            for descriptor in self._outputs:
                selector.register(descriptor, selectors.EVENT_READ)
            for key, _ in selector.select(timeout_s):
                try:
                    data = os.read(key.fd, 65536)
                except OSError:  # a pseudo-terminal's way to say that its last process ended
                    data = b""
                if data:
                    return self._outputs[key.fd], data
                del self._outputs[key.fd]
                return ("", b"") if self._outputs else None
        return "", b""

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._input, view) :]

    def close_input(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()

    def resize(self, rows: int, columns: int) -> None:
        if self._terminal is not None:
            ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            if hasattr(self, "process"):
                os.killpg(self.process.pid, signal.SIGWINCH)

    def exit_status(self) -> int:
        status = self.process.wait()
        return status if status >= 0 else 128 - status


class EchoConsole:
    """A `ConsoleStream` that greets, echoes, and ends at ^D."""

    def __init__(self) -> None:
        self.closed = False
        self._output: queue.Queue[bytes | None] = queue.Queue()
        self._output.put(b"login: ")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.closed = True

    def read(self, timeout_s: float) -> bytes | None:
        try:
            return self._output.get(timeout=timeout_s)
        except queue.Empty:
            return b""

    def write(self, data: bytes) -> None:
        self._output.put(None if data == b"\x04" else data)
