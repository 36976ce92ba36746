"""Sockets that live in another network namespace, from which alone a guest can be reached.

A socket belongs to the namespace of the thread that made it. So a thread of its own enters the namespace, makes the
socket and ends; everybody may use the socket afterwards.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable

from forkbed.base.errors import Kind, OperationalError

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def socket_in(namespace: str) -> socket.socket:
    """A fresh TCP socket in the network namespace with this path. UNREACHABLE if there is none."""
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def make() -> None:
        try:
            descriptor = os.open(namespace, os.O_RDONLY)
            try:
                if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))
            finally:
                os.close(descriptor)
            made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        except OSError as error:
            failed.append(error)

    _in_own_thread(make)
    if made:
        return made[0]
    raise OperationalError(
        Kind.UNREACHABLE,
        f"network namespace {namespace}",
        f"cannot be entered: {failed[0].strerror}",
        "`forkbed up` makes the network anew",
    ) from failed[0]


def connect(namespace: str, address: tuple[str, int], timeout_s: float) -> socket.socket:
    """A connection from inside the namespace; the socket keeps the time limit. Raises OSError if refused."""
    connection = socket_in(namespace)
    try:
        connection.settimeout(timeout_s)
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def _in_own_thread(function: Callable[[], None]) -> None:
    thread = threading.Thread(target=function, name="namespace")
    thread.start()
    thread.join()
