"""What is done for machines with much memory, done to this process here."""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from forkbed.drivers.libvirt import large_memory
from forkbed.drivers.libvirt.large_memory import (
    Gathering,
    collapse_pages,
    large_memories,
    read_each_page,
    read_pages,
)

GIB, HUGE = 1024**3, 2 * 1024**2
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
DOMAIN = "fb-t0st-boss"
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ASKED_FOR = _HUGE_PAGES.exists() and "[madvise]" in _HUGE_PAGES.read_text()


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
        read_pages(2**22, HUGE, 2 * HUGE, math.inf)


def test_a_domain_that_does_not_run_is_told(domain: str) -> None:
    with pytest.raises(OSError, match="No such file"):
        read_each_page(f"{domain}-other")


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
        collapse_pages(os.getpid(), start, start + 4 * HUGE, threading.Event())
        assert huge_bytes(start) == HUGE
        assert memory[:] == held


def test_what_the_kernel_cannot_move_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def advise(_process: int, _ranges: int, count: int, _advice: int, _flags: int) -> int:
        asked.append(count)
        ctypes.set_errno(errno.EAGAIN)
        return {4: 2 * HUGE, 1: -1}[count]  # the third is in use; so is the last

    monkeypatch.setattr(large_memory, "_libc", SimpleNamespace(process_madvise=advise))
    large_memory._collapse(0, [HUGE * number for number in range(4)])
    assert asked == [4, 1]


def test_another_cut_ends_the_gathering(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gathering, copied = Gathering(), []

    def collapse(_process: int, places: list[int]) -> None:
        copied.append(places)
        gathering.end(domain)

    monkeypatch.setattr(large_memory, "_collapse", collapse)
    with mapped(GIB):
        gathering.gather(domain)
        assert len(copied) == 1
        gathering.end(domain)


def test_a_gathering_that_was_ended_before_its_turn_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[list[int]] = []
    monkeypatch.setattr(large_memory, "_collapse", lambda _process, places: copied.append(places))
    ended = threading.Event()
    ended.set()
    with mapped(GIB) as start:
        collapse_pages(os.getpid(), start, start + GIB, ended)
    assert copied == []
