"""Hashes, stored files, sources, and the order of kernel modules."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from blake3 import blake3

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import ImageId
from forkbed.drivers.images.bootstrap import host_sources
from forkbed.drivers.images.cache import BuildCache, BuiltDisk
from forkbed.drivers.images.content import hash_disk, hash_file
from forkbed.drivers.images.micro import loading_order
from forkbed.drivers.images.store import ImageStore, StoredImage

MIB = 1024**2


def stored(directory: Path, data: bytes = b"stored bytes") -> tuple[Path, StoredImage]:
    file = directory / "new"
    file.write_bytes(data)
    image_id = ImageId(blake3(data).hexdigest())
    return file, StoredImage(image_id, MIB, len(data), hash_file(file), 1.0, {"kind": "test"})


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [(0, b"begin")],
        [(5 * MIB + 3, b"middle"), (70 * MIB, b"behind a hole larger than a piece")],
        [(80 * MIB - 3, b"end")],
    ],
)
def test_holes_are_zeros_to_the_identity(tmp_path: Path, pieces: list[tuple[int, bytes]]) -> None:
    disk, plain = tmp_path / "disk", bytearray(80 * MIB)
    with disk.open("wb") as stream:
        for offset, data in pieces:
            stream.seek(offset)
            stream.write(data)
            plain[offset : offset + len(data)] = data
        stream.truncate(80 * MIB)
    assert hash_disk(disk) == blake3(plain).hexdigest() == hash_file(disk)


def test_a_stored_image_is_immutable_and_found_again(tmp_path: Path) -> None:
    file, image = stored(tmp_path)
    ImageStore(tmp_path / "images").add(file, image)
    again = ImageStore(tmp_path / "images")
    assert again.all() == [image]
    path = again.file(image.id).path
    assert path.stat().st_mode & 0o777 == 0o444
    assert not file.exists()


def test_the_same_image_twice_is_stored_once(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    file, image = stored(tmp_path)
    store.add(file, image)
    before = store.file(image.id).path.stat().st_ino
    file, image = stored(tmp_path)
    store.add(file, image)
    assert store.file(image.id).path.stat().st_ino == before
    assert not file.exists()


def test_an_altered_file_is_found_even_with_its_old_time_and_size(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    file, image = stored(tmp_path)
    store.add(file, image)
    path = store.file(image.id).path
    status = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"STORED bytes")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(OperationalError, match="altered") as caught:
        store.file(image.id)
    assert caught.value.kind is Kind.FAULT
    file, image = stored(tmp_path)
    store.add(file, image)  # built or imported again: good again
    assert store.file(image.id).path.read_bytes() == b"stored bytes"


def test_a_touched_but_good_file_is_only_read_again(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    file, image = stored(tmp_path)
    store.add(file, image)
    os.utime(store.file(image.id).path)
    assert store.file(image.id).size_bytes == MIB


def test_a_half_stored_image_does_not_exist(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    (tmp_path / "images" / f"{'ab' * 32}.qcow2").write_bytes(b"half")
    assert store.all() == []
    with pytest.raises(OperationalError) as caught:
        store.file(ImageId("ab" * 32))
    assert caught.value.kind is Kind.NOT_FOUND


def test_the_hosts_own_sources_without_other_vendors(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://no.example/debian bookworm main\n"
        "deb [arch=amd64] http://one.example/debian bookworm main contrib # why\n"
        "deb-src http://one.example/debian bookworm main\n"
        "deb http://vendor.example/apt bookworm stable\n"
        "deb http://one.example/debian trixie main\n"
    )
    (parts / "debian.sources").write_text(
        "Types: deb deb-src\nURIs: http://two.example/debian\n# a comment\nSuites: bookworm bookworm-updates\n"
        "Components: main\nSigned-By: /usr/share/keyrings/k.gpg\n\n"
        "Types: deb\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\nEnabled: no\n"
    )
    (parts / "old.sources.bak").write_text(
        "Types: deb\nURIs: http://bak.example\nSuites: bookworm\nComponents: main\n"
    )
    signed = "[signed-by=/usr/share/keyrings/k.gpg]"
    assert host_sources(tmp_path) == (
        "deb [arch=amd64] http://one.example/debian bookworm main contrib",
        f"deb {signed} http://two.example/debian bookworm main",
        f"deb {signed} http://two.example/debian bookworm-updates main",
    )


def test_modules_are_loaded_after_what_they_need() -> None:
    dependencies = {
        "kernel/virtio.ko": ("kernel/virtio_ring.ko",),
        "kernel/virtio_ring.ko": (),
        "kernel/virtio-rng.ko": ("kernel/virtio.ko", "kernel/virtio_ring.ko"),
        "kernel/unused.ko": (),
    }
    order = loading_order(dependencies, ("virtio_rng", "built_in"))
    assert order == ("kernel/virtio_ring.ko", "kernel/virtio.ko", "kernel/virtio-rng.ko")


def test_the_cache_gives_up_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    for number, key in enumerate(("old", "base", "used", "new")):
        file = tmp_path / "file"
        file.write_bytes(bytes(100))
        cache.add_disk(key, BuiltDisk(file, ImageId(key), MIB, "", key, "micro", "forkbed"))
        os.utime(tmp_path / f"disks/{key}.qcow2", (number, number))
    assert cache.disk("used") is not None  # asked for: the youngest now
    cache.trim(keep=("base",), limit_bytes=250)
    assert [key for key in ("old", "base", "used", "new") if cache.disk(key)] == ["base", "used"]
    assert not (tmp_path / "disks/old.json").exists()
    archive = tmp_path / "archive"
    archive.write_bytes(bytes(10))
    cache.add_root("r", archive)
    assert cache.root("r") == tmp_path / "roots/r.tar.zst"
    assert cache.root("other") is None
