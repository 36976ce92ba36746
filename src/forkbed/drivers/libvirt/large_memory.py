"""What is done for machines with much memory, from outside and while they run, so that their clients notice a cut less.

*Before it*, one byte of each page is read. QEMU does that before it write-protects them, which is while the machine
stands still; what the first touch of a page costs is paid here instead: the kernel's page tables are filled, and
those of the host below, if this one is virtual itself.

*After it*, pages are gathered into huge ones again. QEMU lifts the protection page by page, which splits them: the
machine would be slower for an hour, and in the next cut QEMU and the kernel would have 512 times as much to go through.

All of it is only good for speed, and raises OSError or ValueError where it is not to be had. Linux:
process_vm_readv(2), proc_pid_pagemap(5), process_madvise(2) with MADV_COLLAPSE.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_PID_FILES = Path("/run/libvirt/qemu")  # libvirt's, NAME.pid
_HUGE_PAGES_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
LARGE_BYTES = 1024**3  # with less, QEMU is through in some hundredths of a second
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_HUGE_BYTES = 2 * 1024**2
_RANGES_A_CALL = 1024  # IOV_MAX
_COLLAPSED_AT_ONCE = 8
_MADV_COLLAPSE = 25
_IN_USE = frozenset({errno.EAGAIN, errno.EBUSY, errno.EINVAL})
_READING_LIMIT_S = 120.0
_ENTRY_BYTES = 8  # of a page, in /proc/PID/pagemap
_OWN_PAGE = b"\x81"  # in an entry's highest byte: present, mapped once; not so the page of zeros
_libc = ctypes.CDLL(None, use_errno=True)
_libc.process_vm_readv.restype = _libc.process_madvise.restype = ctypes.c_ssize_t
_libc.process_vm_readv.argtypes = (
    ctypes.c_int,
    *(ctypes.c_void_p, ctypes.c_ulong) * 2,  # iovec, its length
    ctypes.c_ulong,
)
_libc.process_madvise.argtypes = (
    ctypes.c_int,
    *(ctypes.c_void_p, ctypes.c_size_t),
    ctypes.c_int,
    ctypes.c_uint,
)


class Gathering:
    """Makes the pages of domains' large memories huge ones again, of one domain at a time. Thread-safe."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._ends: dict[str, threading.Event] = {}

    def gather(self, domain: str) -> None:
        """Do it, where the host has huge pages: 1 s a GiB. Takes no more memory: holes are left to the kernel."""
        end = self._ends[domain] = threading.Event()
        with self._turn:
            if "[never]" in _HUGE_PAGES_ENABLED.read_text():
                return
            process = _process_of(domain)
            for first, last in large_memories(process):
                collapse_pages(process, first, last, end)

    def end(self, domain: str) -> None:
        """Another cut begins: leave its pages alone from now on, but for some that are being copied."""
        end = self._ends.pop(domain, None)
        if end is not None:
            end.set()


def read_each_page(domain: str) -> None:
    """Read one byte of each page of that running domain's large memories: 0.1 s a GiB, or longer if they are cold.

    Leaves it at that after a while: what is swapped out takes too long.
    """
    process = _process_of(domain)
    until = time.monotonic() + _READING_LIMIT_S
    for start, end in large_memories(process):
        read_pages(process, start, end, until)


def large_memories(pid: int) -> Iterator[tuple[int, int]]:
    """Addresses (from, to) of each large memory that is private to the process, is of no file and holds no code."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, access, _offset, _device, inode = line.split(maxsplit=5)[:5]
        start, end = (int(address, 16) for address in addresses.split("-"))
        if end - start >= LARGE_BYTES and access == "rw-p" and inode == "0":
            yield start, end


def read_pages(pid: int, start: int, end: int, until: float) -> None:
    """Read one byte of each page between the addresses of that process, until that time. May raise OSError."""
    here = ctypes.create_string_buffer(_RANGES_A_CALL)
    for pages in _by_calls(range(start, end, _PAGE_BYTES), _RANGES_A_CALL):
        local, remote = _iovec((ctypes.addressof(here),), len(pages)), _iovec(pages, 1)
        if _libc.process_vm_readv(pid, _address(local), 1, _address(remote), len(pages), 0) < 0:
            raise _error()
        if time.monotonic() > until:
            return


def collapse_pages(pid: int, start: int, end: int, stop: threading.Event) -> None:
    """Make huge pages of what lies between the addresses, where no page is missing. May raise OSError."""
    process = os.pidfd_open(pid)
    try:
        first = -(-start // _HUGE_BYTES) * _HUGE_BYTES
        pause_s = 0.0
        for places in _by_calls(range(first, end - _HUGE_BYTES + 1, _HUGE_BYTES), _COLLAPSED_AT_ONCE):
            # the machine waits where it touches what is being copied
            if stop.wait(pause_s):
                return
            began = time.monotonic()
            _collapse(process, list(_without_holes(pid, places)))
            pause_s = time.monotonic() - began
    finally:
        os.close(process)


def _collapse(process: int, places: list[int]) -> None:
    """Make a huge page of each; what the kernel cannot move just now is left as it is."""
    while places:
        ranges = _iovec(places, _HUGE_BYTES)
        done = _libc.process_madvise(process, _address(ranges), len(places), _MADV_COLLAPSE, 0)
        if done < 0 and ctypes.get_errno() not in _IN_USE:
            raise _error()
        places = places[max(done, 0) // _HUGE_BYTES + 1 :]  # behind the one that it ended at


def _without_holes(pid: int, places: Iterable[int]) -> Iterator[int]:
    pages = _HUGE_BYTES // _PAGE_BYTES
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        for place in places:
            pagemap.seek(place // _PAGE_BYTES * _ENTRY_BYTES)
            entries = pagemap.read(pages * _ENTRY_BYTES)
            if entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES] == _OWN_PAGE * pages:
                yield place


def _by_calls(places: range, at_once: int) -> Iterator[range]:
    for first in range(0, len(places), at_once):
        yield places[first : first + at_once]


def _iovec(bases: Sequence[int], length: int) -> array[int]:
    """An array of struct iovec: base, length."""
    made = array("Q", bytes(16 * len(bases)))
    made[0::2] = array("Q", bases)
    made[1::2] = array("Q", (length,)) * len(bases)
    return made


def _address(made: array[int]) -> int:
    return made.buffer_info()[0]


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _process_of(domain: str) -> int:
    return int((_PID_FILES / f"{domain}.pid").read_text())
