"""Network namespaces with names: make, remove, and do something inside one."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import processes

DIRECTORY = Path("/run/netns")
"""Where `ip netns` keeps them."""

HERE = "/proc/self/ns/net"
"""The network namespace of whoever opens this path."""

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
Result = TypeVar("Result")


def path_of(name: str) -> Path:
    """The file that stands for the namespace of that name."""
    return DIRECTORY / name


def exists(name: str) -> bool:
    """Whether there is such a namespace; the empty file that a crash may leave is none."""
    try:
        return path_of(name).stat().st_dev != DIRECTORY.stat().st_dev
    except FileNotFoundError:
        return False


def names(prefix: str) -> list[str]:
    """The names that begin with `prefix`, also of half-made ones."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(entry for entry in os.listdir(DIRECTORY) if entry.startswith(prefix))
    return []


def ensure(name: str) -> bool:
    """Make the namespace; returns whether it was not there."""
    if exists(name):
        return False
    with contextlib.suppress(FileNotFoundError):
        path_of(name).unlink()
    processes.run(["ip", "netns", "add", name], subject=f"network namespace {name}")
    return True


def remove(name: str) -> bool:
    """Remove the name; the namespace ends with the last process in it. Returns whether it was there."""
    if exists(name):
        processes.run(["ip", "netns", "delete", name], subject=f"network namespace {name}")
        return True
    with contextlib.suppress(FileNotFoundError):
        path_of(name).unlink()
        return True
    return False


def run_inside(path: Path, action: Callable[[], Result]) -> Result:
    """Call `action` in the network namespace with this path; returns and raises what it does.

    It runs in a thread of its own that ends afterwards: no other thread of this process is ever moved.
    Processes that it starts are in the namespace too.
    """

    def body() -> Result:
        _enter(path)
        return action()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"in {path.name}") as thread:
        return thread.submit(body).result()


def _enter(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_enter(path, error) from error
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise _cannot_enter(path, OSError(number, os.strerror(number)))
    finally:
        os.close(descriptor)


def _cannot_enter(path: Path, error: OSError) -> OperationalError:
    return OperationalError(
        Kind.FAULT, f"network namespace {path.name}", f"cannot be entered: {error.strerror}"
    )
