"""The identity of an image: BLAKE3 over every byte of its disk as a guest reads it, holes as zeros.

So the same disk has the same id in every format, and `b3sum` of the raw export shows it to anyone.
"""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

from blake3 import blake3

_PIECE_BYTES = 64 * 1024 * 1024


def hash_disk(path: Path) -> str:
    """The BLAKE3 (hexadecimal) of a raw disk file. Holes are hashed without reading them."""
    hasher = blake3(max_threads=blake3.AUTO)
    with path.open("rb") as stream, mmap.mmap(-1, _PIECE_BYTES) as zeros:
        descriptor = stream.fileno()
        end = os.fstat(descriptor).st_size
        position = 0
        while position < end:
            data = min(_seek(descriptor, position, os.SEEK_DATA, end), end)
            _hash_zeros(hasher, zeros, data - position)
            position = min(_seek(descriptor, data, os.SEEK_HOLE, end), end) if data < end else end
            _hash_data(hasher, stream.fileno(), data, position)
    return hasher.hexdigest()


def hash_file(path: Path) -> str:
    """The BLAKE3 (hexadecimal) of a file's bytes."""
    hasher = blake3(max_threads=blake3.AUTO)
    hasher.update_mmap(path)
    return hasher.hexdigest()


def _seek(descriptor: int, position: int, what: int, end: int) -> int:
    try:
        return os.lseek(descriptor, position, what)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data after `position`
            return end
        raise


def _hash_zeros(hasher: blake3, zeros: mmap.mmap, count: int) -> None:
    with memoryview(zeros) as view:
        for begin in range(0, count, _PIECE_BYTES):
            hasher.update(view[: min(_PIECE_BYTES, count - begin)])


def _hash_data(hasher: blake3, descriptor: int, begin: int, end: int) -> None:
    while begin < end:
        piece = os.pread(descriptor, min(_PIECE_BYTES, end - begin), begin)
        if not piece:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        hasher.update(piece)
        begin += len(piece)
