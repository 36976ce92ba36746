"""Join this process's standard streams to a stream of a machine, with the terminal raw where one is used."""

from __future__ import annotations

import os
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from forkbed.api.frames import FRAME_BYTES, Channel

if TYPE_CHECKING:
    from forkbed.api.client.streams import GuestConnection

_DEFAULT_SIZE = (24, 80)
_ANSWER_S = 1.0


class Escape:
    """Finds the keys that leave a session in what the person types. Pure.

    With `line_start` they count only at the beginning of a line, and are held back until it is sure that they
    are not meant.
    """

    def __init__(self, keys: bytes, *, line_start: bool = False) -> None:
        self._keys = keys
        self._only_at_start = line_start
        self._at_start = True
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be sent on, and whether the person leaves."""
        sent = bytearray()
        for byte in data:
            key = bytes((byte,))
            candidate = self._held + key
            possible = self._at_start or not self._only_at_start
            if possible and self._keys.startswith(candidate):
                if candidate == self._keys:
                    return bytes(sent), True
                self._held = candidate
                continue
            sent += candidate
            self._held = b""
            self._at_start = key in (b"\r", b"\n")
        return bytes(sent), False


def terminal_size() -> tuple[int, int]:
    """Rows and columns of the terminal that this process talks to."""
    for stream in (sys.stdout, sys.stdin, sys.stderr):
        try:
            size = os.get_terminal_size(stream.fileno())
        except (OSError, ValueError):
            continue
        return size.lines, size.columns
    return _DEFAULT_SIZE


def attach(stream: GuestConnection, *, raw: bool, escape: Escape | None, leaves_at_end: bool = False) -> int:
    """Carry bytes both ways until the stream ends; returns its exit status, 0 if the person left.

    `raw` hands every key to the guest, Ctrl-C too. With `leaves_at_end` the end of the input, after a moment for
    the answer, ends the stream: a console has no end of its own.
    """
    # A daemon: it may wait for a key that nobody presses when the command has long ended.
    reader = threading.Thread(
        target=_send_input, args=(stream, escape if raw else None, leaves_at_end), daemon=True
    )
    with _raw_terminal(raw), _told_of_sizes(stream, raw):
        reader.start()
        for channel, data in stream.output():
            output = sys.stderr if channel is Channel.ERROR_OUTPUT else sys.stdout
            output.buffer.write(data)
            output.buffer.flush()
    return stream.exit_status or 0


def _send_input(stream: GuestConnection, escape: Escape | None, leaves_at_end: bool) -> None:
    descriptor = sys.stdin.fileno()
    while data := os.read(descriptor, FRAME_BYTES):
        if escape is not None:
            data, leaves = escape.feed(data)
            if leaves:
                stream.leave()
                return
        if not stream.write(data):
            return
    if leaves_at_end:
        time.sleep(_ANSWER_S)
        stream.leave()
        return
    stream.close_input()


@contextmanager
def _raw_terminal(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def _told_of_sizes(stream: GuestConnection, wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return

    def changed(_signal: int, _frame: FrameType | None) -> None:
        # In a thread: the main one may be interrupted in the middle of sending.
        threading.Thread(target=stream.resize, args=terminal_size(), daemon=True).start()

    before = signal.signal(signal.SIGWINCH, changed)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
