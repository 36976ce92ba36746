"""Chains of layers read as QEMU reads them, and never less told as differing than differs."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forkbed.drivers import processes
from forkbed.drivers.filesystems.chains import Chain, OpenLayer
from forkbed.drivers.filesystems.problems import Unreadable

CLUSTER = 65536
SIZE = 40 * CLUSTER


@contextmanager
def opened(*paths: Path) -> Iterator[Chain]:
    layers = [
        OpenLayer(str(path), "raw" if path.suffix == ".raw" else "qcow2", os.open(path, os.O_RDONLY))
        for path in paths
    ]
    try:
        yield Chain(layers)
    finally:
        for layer in layers:
            os.close(layer.descriptor)


def written(path: Path, below: Path | None, source: random.Random, size: int = SIZE) -> Path:
    """A qcow2 layer with a few writes, zeroed and discarded places."""
    backing = ["-b", str(below), "-F", "raw" if below.suffix == ".raw" else "qcow2"] if below else []
    processes.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, path, str(size)])
    words: list[str] = []
    for _ in range(source.randint(1, 6)):
        at, length = source.randrange(0, size - 4096, 512), source.randrange(512, 3 * CLUSTER, 512)
        length = min(length, size - at)
        how = source.choice([f"-P {source.randint(1, 255)}", "-z", "-z -u"])
        words += ["-c", f"write {how} {at} {length}"]
    processes.run(["qemu-io", "-f", "qcow2", *words, path])
    return path


def as_qemu_reads(path: Path, scratch: Path) -> bytes:
    processes.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, scratch])
    return scratch.read_bytes()


@pytest.mark.parametrize("seed", range(6))
def test_chains_are_read_as_qemu_reads_them(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    image = tmp_path / "image.raw"
    image.write_bytes(source.randbytes(SIZE - 3 * CLUSTER - 512))  # smaller than what stands on it
    middle = written(tmp_path / "middle.qcow2", image, source)
    left = written(tmp_path / "left.qcow2", middle, source)
    right = written(tmp_path / "right.qcow2", middle, source, SIZE + 5 * CLUSTER)
    contents = [as_qemu_reads(top, tmp_path / "scratch.raw") for top in (left, right)]
    with opened(left, middle, image) as one, opened(right, middle, image) as other:
        assert one.read(0, SIZE) == contents[0]
        assert other.read(0, SIZE + 5 * CLUSTER) == contents[1]
        assert one.read(SIZE - 512, 1024) == contents[0][-512:] + bytes(512)
        for _ in range(20):
            at, length = source.randrange(SIZE), source.randrange(1, 3 * CLUSTER)
            assert one.read(at, length) == contents[0][at : at + length].ljust(length, b"\0")
        differing = one.differing(other)
        assert differing == other.differing(one)
        for at in range(0, SIZE, 512):
            if contents[0][at : at + 512] != contents[1][at : at + 512]:
                assert differing.meets(at, at + 512)
        assert not one.differing(one)


def test_without_a_shared_layer_all_that_is_allocated_can_differ(tmp_path: Path) -> None:
    for name in ("one", "other"):
        processes.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / f"{name}.qcow2", str(SIZE)])
        processes.run(["qemu-io", "-f", "qcow2", "-c", f"write {CLUSTER} 512", tmp_path / f"{name}.qcow2"])
    with opened(tmp_path / "one.qcow2") as one, opened(tmp_path / "other.qcow2") as other:
        assert list(one.differing(other)) == [(CLUSTER, 2 * CLUSTER)]


def test_compressed_clusters(tmp_path: Path) -> None:
    content = b"".join(bytes([number]) * CLUSTER for number in range(8))
    (tmp_path / "plain.raw").write_bytes(content)
    for method, readable in (("zlib", True), ("zstd", False)):
        packed = tmp_path / f"{method}.qcow2"
        processes.run(
            ["qemu-img", "convert", "-c", "-O", "qcow2", "-o", f"compression_type={method}",
             tmp_path / "plain.raw", packed]
        )  # fmt: skip
        with opened(packed) as chain:
            if readable:
                assert chain.read(100, len(content) - 200) == content[100:-100]
            else:
                with pytest.raises(Unreadable, match="zstd"):
                    chain.read(CLUSTER, 512)


def test_what_is_no_layer_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.qcow2"
    text.write_bytes(b"hello" * 100)
    with pytest.raises(Unreadable, match="not a qcow2 file"), opened(text):
        pass
    external = tmp_path / "external.qcow2"
    processes.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/data.raw", external, "1M"]
    )
    with pytest.raises(Unreadable, match="external data file"), opened(external):
        pass


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_layer_never_does_worse_than_to_be_refused(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    layer = written(tmp_path / "layer.qcow2", None, source)
    content = bytearray(layer.read_bytes())
    for _ in range(source.randint(1, 8)):
        at = source.randrange(min(len(content), 5 * CLUSTER) if source.random() < 0.5 else 104)
        content[at] = source.randrange(256)
    layer.write_bytes(content[: source.choice([len(content), len(content) // 2])])
    try:
        with opened(layer) as chain:
            chain.read(0, min(chain.size_bytes, SIZE))
    except Unreadable:
        pass
