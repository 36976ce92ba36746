"""A command that runs through ssh: the client's pipes or terminal as `ports.guests.CommandChannel`.

Nothing is kept here: what is not read stays in the pipe, so a slow reader slows the guest's command down.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import selectors
import signal
import struct
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from forkbed.drivers import processes
from forkbed.drivers.guests.ssh_command import SshTarget, connection_failure
from forkbed.drivers.guests.trailer import StatusTrailer

_CHUNK_BYTES = 64 * 1024
_SSH_FAILED = 255
_END_OF_INPUT = b"\x04"  # what a terminal takes for the end
_RAW_TIMEOUT_S = 20.0
_RAW_POLL_S = 0.005
_TERMINAL_TYPE = "xterm-256color"


class SshChannel:
    """One run of the ssh client.

    `end` ends the command in the guest when the channel is left before its end; `released` is called when the
    connection is free for others.
    """

    via = "ssh"
    notice = ""

    def __init__(
        self,
        argv: tuple[str, ...],
        target: SshTarget,
        *,
        log: Path,
        trailer: StatusTrailer,
        terminal: tuple[int, int] | None,
        end: Callable[[], None],
        released: Callable[[], None],
    ) -> None:
        """Start the client. `log` is the file in which it complains; it is removed with the channel."""
        self._released = released
        self._left = False
        self._trailer = trailer
        self._target = target
        self._log = log
        self._end = end
        self._input_lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._terminal = terminal is not None
        self._input: int | None
        if terminal is None:
            self._process = processes.spawn(
                argv, stdin=processes.PIPE, stdout=processes.PIPE, stderr=processes.PIPE, own_session=True
            )
            assert self._process.stdin and self._process.stdout and self._process.stderr
            self._input = os.dup(self._process.stdin.fileno())
            self._process.stdin.close()
            self._watch(os.dup(self._process.stdout.fileno()), "stdout")
            self._watch(os.dup(self._process.stderr.fileno()), "stderr")
            self._process.stdout.close()
            self._process.stderr.close()
        else:
            self._input, far_end = pty.openpty()
            try:
                _set_size(self._input, *terminal)
                self._process = processes.spawn(
                    argv,
                    stdin=far_end,
                    stdout=far_end,
                    stderr=far_end,
                    environment={"TERM": _TERMINAL_TYPE},
                    own_session=True,
                )
            finally:
                os.close(far_end)
            self._watch(os.dup(self._input), "stdout")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._left:
            return
        self._left = True
        ended_by_itself = self._process.poll() is not None
        if not ended_by_itself:
            processes.kill_group(self._process)
        self._drop_input()
        for key in list(self._selector.get_map().values()):
            self._unwatch(key.fd)
        self._selector.close()
        self._log.unlink(missing_ok=True)
        try:
            if not ended_by_itself:
                self._end()
        finally:
            self._released()

    def read(self, timeout_s: float) -> tuple[str, bytes] | None:
        """The next ("stdout"|"stderr", bytes); ("", b"") if nothing came in time; None when both ended."""
        deadline = time.monotonic() + timeout_s
        while self._selector.get_map():
            ready = self._selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                return "", b""
            for key, _ in ready:
                try:
                    data = os.read(key.fd, _CHUNK_BYTES)
                except OSError:  # a terminal's end looks like this
                    data = b""
                ended = not data
                if key.data == "stderr":
                    data = self._trailer.rest() if ended else self._trailer.pass_on(data)
                if ended:
                    self._unwatch(key.fd)
                if data:
                    return str(key.data), data
        return None

    def write(self, data: bytes) -> None:
        """Pass bytes on; blocks while the guest does not take them. Dropped once the command closed its input."""
        with self._input_lock:
            if self._terminal:
                self._await_raw_terminal()
            view = memoryview(data)
            while view and self._input is not None:
                try:
                    view = view[os.write(self._input, view[:_CHUNK_BYTES]) :]
                except OSError:  # the command ended, or takes no more input
                    return

    def close_input(self) -> None:
        """The command sees the end of its input."""
        if self._terminal:
            self.write(_END_OF_INPUT)
        else:
            self._drop_input()

    def resize(self, rows: int, columns: int) -> None:
        """The person's terminal has another size now."""
        with self._input_lock:
            if self._terminal and self._input is not None:
                _set_size(self._input, rows, columns)
                with contextlib.suppress(ProcessLookupError):
                    self._process.send_signal(signal.SIGWINCH)

    def exit_status(self) -> int:
        """The command's status. UNREACHABLE if the connection failed or broke instead."""
        status = self._process.wait()
        if self._trailer.status is not None:
            return self._trailer.status
        complaint = self._complaint()
        if status < 0 or (status == _SSH_FAILED and (complaint or not self._terminal)):
            raise connection_failure(self._target, complaint or ("the connection broke",))
        return status

    def _await_raw_terminal(self) -> None:
        """Until ssh has taken the terminal over, it would echo and interpret here what is meant for the guest.

        It cannot be made raw for ssh beforehand: the guest's terminal begins with the settings that ssh finds.
        """
        deadline = time.monotonic() + _RAW_TIMEOUT_S
        while self._input is not None and self._process.poll() is None and time.monotonic() < deadline:
            if not termios.tcgetattr(self._input)[3] & termios.ICANON:
                return
            time.sleep(_RAW_POLL_S)

    def _complaint(self) -> tuple[str, ...]:
        try:
            return processes.last_lines(self._log.read_bytes())
        except FileNotFoundError:
            return ()

    def _watch(self, descriptor: int, name: str) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, name)

    def _unwatch(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)
        os.close(descriptor)

    def _drop_input(self) -> None:
        with self._input_lock:
            if self._input is not None:
                os.close(self._input)
                self._input = None


def _set_size(descriptor: int, rows: int, columns: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
