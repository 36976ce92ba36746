"""What is done for machines with much memory, done to this process here."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forkbed.drivers.libvirt import large_memory
from forkbed.drivers.libvirt.large_memory import (
    collapse_pages,
    gather_pages,
    large_memories,
    read_each_page,
    read_pages,
    yield_to_machine,
)

GIB, HUGE = 1024**3, 2 * 1024**2
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
DOMAIN = "fb-t0st-boss"
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


@contextmanager
def mapped(size: int, flags: int = PRIVATE, access: int = mmap.PROT_READ | mmap.PROT_WRITE) -> Iterator[int]:
    """The address of a memory of that size."""
    with mmap.mmap(-1, size, flags, access) as memory:
        yield address(memory)


def present(start: int, size: int) -> int:
    """How many of the pages are in the page table."""
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        pagemap.seek(start // mmap.PAGESIZE * 8)
        return sum(entry & 0x80 != 0 for entry in pagemap.read(size // mmap.PAGESIZE * 8)[7::8])


def huge_bytes(start: int) -> int:
    """How much of the mapping that the address is in consists of huge pages."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            first, last = (int(place, 16) for place in words[0].split("-"))
            inside = first <= start < last
        elif inside and words[0] == "AnonHugePages:":
            return int(words[1]) * 1024
    raise AssertionError("no such mapping")


@pytest.fixture
def domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A domain whose emulator is this process."""
    monkeypatch.setattr(large_memory, "_PID_FILES", tmp_path)
    (tmp_path / f"{DOMAIN}.pid").write_text(f"{os.getpid()}\n")
    return DOMAIN


def test_large_is_what_is_private_and_of_a_gibibyte() -> None:
    with mapped(GIB // 2):
        assert not list(large_memories(os.getpid()))
    everything = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    shared = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
    with (
        mapped(GIB) as wanted,
        mapped(GIB, shared) as of_others,
        mapped(GIB, access=everything) as code,
    ):
        found = list(large_memories(os.getpid()))
        assert any(start <= wanted and wanted + GIB <= end for start, end in found)
        assert not any(start <= other < end for start, end in found for other in (of_others, code))


def test_each_page_is_read(domain: str) -> None:
    with mapped(GIB) as start:
        assert present(start, GIB) == 0
        read_each_page(domain)
        assert present(start, GIB) == GIB // mmap.PAGESIZE


def test_a_process_that_is_gone_is_told() -> None:
    with pytest.raises(OSError, match="No such process"):
        read_pages(2**22, HUGE, 2 * HUGE)


def test_a_domain_that_does_not_run_is_told(domain: str) -> None:
    with pytest.raises(OSError, match="No such file"):
        gather_pages(f"{domain}-other")


@pytest.mark.skipif(
    "[madvise]" not in _HUGE_PAGES.read_text(), reason="the kernel does it by itself, or never"
)
def test_full_pages_are_gathered_and_holes_stay() -> None:
    with mmap.mmap(-1, 4 * HUGE, PRIVATE) as memory:
        start = address(memory)
        first = -start % HUGE  # of what is aligned
        for place in range(first, first + 2 * HUGE, mmap.PAGESIZE):
            if place != first + HUGE:  # the second has a hole
                memory[place] = place // mmap.PAGESIZE % 251 + 1
        held = memory[:]  # reads of the hole fill it with the page of zeros, which is no page of its own
        collapse_pages(os.getpid(), start, start + 4 * HUGE)
        assert huge_bytes(start) == HUGE
        assert memory[:] == held


def test_the_stream_gives_way_where_memory_is_large(domain: str) -> None:
    named, ended = threading.Event(), threading.Event()
    threads: list[int] = []

    def stream() -> None:
        threads.append(threading.get_native_id())
        Path(f"/proc/self/task/{threads[0]}/comm").write_text("bg_snapshot")
        named.set()
        ended.wait()

    streaming = threading.Thread(target=stream)
    streaming.start()
    try:
        assert named.wait(10)
        before = os.getpriority(os.PRIO_PROCESS, threads[0])
        yield_to_machine(domain)
        assert os.getpriority(os.PRIO_PROCESS, threads[0]) == before
        with mapped(GIB):
            yield_to_machine(domain)
        assert os.getpriority(os.PRIO_PROCESS, threads[0]) == 10
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
    finally:
        ended.set()
        streaming.join()
