"""Make sockets in another network namespace, from a process that otherwise stays in its own.

A namespace belongs to a thread, and a socket for good to the namespace in which it was made. So one thread goes
over and makes sockets for all others. (Python has `os.setns` only from 3.12 on.)
"""

from __future__ import annotations

import ctypes
import os
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

_CLONE_NEWNET = 0x40000000


def enter_network(namespace: Path) -> None:
    """Move the calling thread into the network namespace with this path. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(namespace))
    finally:
        os.close(descriptor)


class SocketMaker:
    """Makes sockets in one network namespace; a context manager that ends its thread."""

    def __init__(self, namespace: Path) -> None:
        self._thread = ThreadPoolExecutor(1, "lab-sockets", initializer=enter_network, initargs=(namespace,))

    def __enter__(self) -> SocketMaker:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def make(self, kind: socket.SocketKind) -> Future[socket.socket]:
        """An unconnected, non-blocking IPv4 socket of this kind."""
        return self._thread.submit(_non_blocking, kind)


def _non_blocking(kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    made.setblocking(False)
    return made
