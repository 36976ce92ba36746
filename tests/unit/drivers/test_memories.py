"""Files of memories: room beforehand, read while they grow, complete or gone; and their way through a pipe."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId, SnapshotId
from forkbed.drivers.libvirt.feeding import Pipes
from forkbed.drivers.libvirt.memories import Memories, Memory
from forkbed.drivers.libvirt.saveimage import image_head

SNAPSHOT, MACHINE = SnapshotId("snap1"), MachineId("mach1")
STREAM = os.urandom(300_000)


@pytest.fixture
def memories(tmp_path: Path) -> Memories:
    return Memories(tmp_path / "memory")


def begin(memories: Memories) -> Memory:
    memory = memories.begin(SNAPSHOT, MACHINE, 500_000, "machine boss")
    memory.describe("<domain/>")
    return memory


def finish(memories: Memories) -> None:
    memory = begin(memories)
    os.write(memory.descriptor, STREAM)
    memory.complete()
    memories.settle(SNAPSHOT, MACHINE)


def test_a_complete_memory(memories: Memories, tmp_path: Path) -> None:
    memory = begin(memories)
    path = tmp_path / "memory" / "snap1" / "mach1.mem"
    assert path.stat().st_blocks * 512 >= 500_000, "its room is there beforehand"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [view.machine_id for view in memories.views()] == [MACHINE]
    os.write(memory.descriptor, STREAM)
    assert memory.complete() == len(STREAM)
    memories.settle(SNAPSHOT, MACHINE)
    assert path.stat().st_size == len(STREAM)
    assert path.with_suffix(".json").stat().st_mode & 0o777 == 0o600
    for seen in (memories, Memories(tmp_path / "memory")):
        assert [view.size_bytes for view in seen.views()] == [len(STREAM)]
        with seen.opened(SNAPSHOT, MACHINE, "boss") as opened:
            assert (opened.domain, opened.extent()) == ("<domain/>", (len(STREAM), True))
    assert memories.remove(SNAPSHOT)
    assert not memories.remove(SNAPSHOT)
    assert memories.views() == []


def test_a_growing_memory_is_followed(memories: Memories) -> None:
    memory = begin(memories)
    with memories.opened(SNAPSHOT, MACHINE, "boss") as follower:
        os.write(memory.descriptor, STREAM[:1000])
        assert follower.extent() == (1000, False)
        os.write(memory.descriptor, STREAM[1000:])
        memory.complete()
        memories.settle(SNAPSHOT, MACHINE)
        assert follower.extent() == (len(STREAM), True)
        assert os.pread(follower.descriptor, len(STREAM), 0) == STREAM


def test_a_memory_that_need_not_last_ends_with_the_boot(
    memories: Memories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = memories.begin(SNAPSHOT, MACHINE, 500_000, "machine boss", lasting=False)
    os.write(memory.descriptor, STREAM)
    memory.complete()
    memories.settle(SNAPSHOT, MACHINE)
    path = tmp_path / "memory" / "snap1" / "mach1.mem"
    assert path.with_suffix(".json").stat().st_mode & 0o777 == 0o600
    seen = Memories(tmp_path / "memory")
    seen.sweep()
    with seen.opened(SNAPSHOT, MACHINE, "boss") as opened:
        assert opened.extent() == (len(STREAM), True)
    monkeypatch.setattr("forkbed.drivers.libvirt.memories.host_boot", lambda: "the next one")
    with pytest.raises(OperationalError) as refused, seen.opened(SNAPSHOT, MACHINE, "boss"):
        pass
    assert refused.value.kind is Kind.NOT_FOUND
    assert seen.views() == []
    seen.sweep()
    assert not path.parent.exists()


def test_a_memory_is_made_to_last_afterwards(
    memories: Memories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not memories.make_lasting(SNAPSHOT)
    memory = memories.begin(SNAPSHOT, MACHINE, 500_000, "machine boss", lasting=False)
    os.write(memory.descriptor, STREAM)
    memory.complete()
    memories.settle(SNAPSHOT, MACHINE)
    assert memories.make_lasting(SNAPSHOT)
    monkeypatch.setattr("forkbed.drivers.libvirt.memories.host_boot", lambda: "the next one")
    assert memories.make_lasting(SNAPSHOT)
    seen = Memories(tmp_path / "memory")
    seen.sweep()
    with seen.opened(SNAPSHOT, MACHINE, "boss") as opened:
        assert opened.extent() == (len(STREAM), True)


def test_one_of_an_earlier_boot_cannot_be_made_to_last(
    memories: Memories, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = memories.begin(SNAPSHOT, MACHINE, 500_000, "machine boss", lasting=False)
    os.write(memory.descriptor, STREAM)
    memory.complete()
    memories.settle(SNAPSHOT, MACHINE)
    monkeypatch.setattr("forkbed.drivers.libvirt.memories.host_boot", lambda: "the next one")
    assert not memories.make_lasting(SNAPSHOT)


def test_a_failed_memory_is_gone(memories: Memories, tmp_path: Path) -> None:
    memory = begin(memories)
    with memories.opened(SNAPSHOT, MACHINE, "boss") as follower:
        memory.fail("QEMU died")
        memories.settle(SNAPSHOT, MACHINE)
        assert follower.extent()[1]
        assert follower.failure == "QEMU died"
    assert memories.views() == []
    assert list((tmp_path / "memory").iterdir()) == []
    with pytest.raises(OperationalError) as failure, memories.opened(SNAPSHOT, MACHINE, "boss"):
        pass
    assert failure.value.kind is Kind.NOT_FOUND


def test_no_room_leaves_nothing(memories: Memories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OperationalError) as failure:
        begin(memories)
    assert failure.value.kind is Kind.CONFLICT
    assert list((tmp_path / "memory").iterdir()) == []
    assert memories.views() == []


def test_what_a_dead_process_left_is_swept_and_complete_memories_stay(
    memories: Memories, tmp_path: Path
) -> None:
    finish(memories)
    memory = memories.begin(SnapshotId("snap2"), MACHINE, 1000, "boss")
    os.close(memory.descriptor)
    memories.sweep()
    assert len(memories.views()) == 2, "one's own are not swept"
    Memories(tmp_path / "memory").sweep()
    assert [view.snapshot_id for view in Memories(tmp_path / "memory").views()] == [SNAPSHOT]
    assert [p.name for p in (tmp_path / "memory").iterdir()] == ["snap1"]


def test_removing_waits_for_the_stream(memories: Memories) -> None:
    memory = begin(memories)
    remover = threading.Thread(target=memories.remove, args=(SNAPSHOT,))
    remover.start()
    remover.join(0.05)
    assert remover.is_alive()
    os.write(memory.descriptor, STREAM)
    memory.complete()
    memories.settle(SNAPSHOT, MACHINE)
    remover.join()
    assert memories.views() == []


class Reader:
    """Stands for libvirt: reads the pipe as `read` says."""

    def __init__(self, read: Callable[[Path], bytes]) -> None:
        self.read = read
        self.received = b""

    def restoreFlags(self, path: str, _domain: None, _flags: int) -> None:  # noqa: N802
        self.received = self.read(Path(path))


def test_head_and_growing_stream_go_through_the_pipe(memories: Memories, tmp_path: Path) -> None:
    memory = begin(memories)
    reader = Reader(Path.read_bytes)

    def grow() -> None:
        for start in range(0, len(STREAM), 50_000):
            os.write(memory.descriptor, STREAM[start : start + 50_000])
        memory.complete()
        memories.settle(SNAPSHOT, MACHINE)

    with memories.opened(SNAPSHOT, MACHINE, "boss") as opened:
        writer = threading.Thread(target=grow)
        writer.start()
        Pipes(tmp_path / "pipes").restore(reader, opened, "<domain/>")
        writer.join()
    assert reader.received == image_head("<domain/>") + STREAM
    assert list((tmp_path / "pipes").iterdir()) == []
    assert (tmp_path / "pipes").stat().st_mode & 0o777 == 0o700


def test_a_reader_that_refuses_ends_the_feeding(memories: Memories, tmp_path: Path) -> None:
    finish(memories)

    def refuse(_path: Path) -> bytes:
        raise libvirt.libvirtError("no")

    with memories.opened(SNAPSHOT, MACHINE, "boss") as opened, pytest.raises(libvirt.libvirtError):
        Pipes(tmp_path / "pipes").restore(Reader(refuse), opened, "<domain/>")


def test_a_stream_that_fails_ends_early_and_is_told(memories: Memories, tmp_path: Path) -> None:
    memory = begin(memories)
    os.write(memory.descriptor, STREAM[:1000])

    def read(path: Path) -> bytes:
        with path.open("rb", buffering=0) as pipe:
            first = pipe.read(100)
            memory.fail("QEMU died")
            memories.settle(SNAPSHOT, MACHINE)
            data = first + b"".join(iter(lambda: pipe.read(4096), b""))
        assert len(data) < len(STREAM)
        raise libvirt.libvirtError("an early end")

    with memories.opened(SNAPSHOT, MACHINE, "boss") as opened, pytest.raises(OperationalError) as failure:
        Pipes(tmp_path / "pipes").restore(Reader(read), opened, "<domain/>")
    assert failure.value.kind is Kind.FAULT
    assert "QEMU died" in failure.value.brief


def test_a_reader_whose_writer_died_is_let_go(tmp_path: Path) -> None:
    (tmp_path / "pipes").mkdir()
    left = tmp_path / "pipes" / "left"
    received: list[bytes] = []

    def read() -> None:
        while not received:
            try:
                received.append(left.read_bytes())
            except FileNotFoundError:  # swept before we came
                os.mkfifo(left)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while reader.is_alive():
        Pipes(tmp_path / "pipes").sweep()
        reader.join(0.01)
    assert received == [b""]


def test_notes_hold_what_is_needed_to_go_on(memories: Memories, tmp_path: Path) -> None:
    finish(memories)
    note = json.loads((tmp_path / "memory" / "snap1" / "mach1.json").read_bytes())
    assert note == {"size_bytes": len(STREAM), "domain": "<domain/>"}
