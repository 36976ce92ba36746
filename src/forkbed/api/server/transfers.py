"""Image files on their way in and out: temporary files under the state directory, never in memory.

Promises: an upload that is taken over is complete and on the disk (fsync); one that failed leaves nothing.
What a crash left behind is removed at the next start.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from forkbed.api.server.context import Context
from forkbed.base.errors import Kind, OperationalError
from forkbed.base.units import format_size

_CHUNK_BYTES = 1024 * 1024


def empty_transfers(directory: Path, keep: Collection[Path] = ()) -> None:
    """Make the directory, without what an earlier server left in it but for uploads that are still wanted."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for leftover in directory.iterdir():
        if leftover not in keep:
            leftover.unlink(missing_ok=True)


def reserve_path(context: Context, suffix: str = "") -> Path:
    """The path of a temporary file that does not exist yet."""
    context.transfers_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return context.transfers_dir / f"{token_hex(8)}{suffix}"


async def receive_file(stream: AsyncIterator[bytes], context: Context, *, expected_bytes: int | None) -> Path:
    """Write a request's body to a temporary file and return its path; the caller removes or hands it on.

    Raises INVALID for a body over the limit, FAULT when the disk is full, UNREACHABLE if the client went away.
    """
    path = await run_in_threadpool(reserve_path, context, ".upload")
    try:
        _check_room(context, expected_bytes or 0)
        with path.open("xb") as file:
            await _copy(stream, file, context.upload_limit_bytes)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, ClientDisconnect):
            raise OperationalError(Kind.UNREACHABLE, "upload", "the client went away") from error
        if isinstance(error, OSError):
            raise OperationalError(
                Kind.FAULT, "upload", f"the file cannot be kept: {error.strerror}", "make room and try again"
            ) from error
        raise
    return path


async def _copy(stream: AsyncIterator[bytes], file: BinaryIO, limit_bytes: int) -> None:
    # The framework hands on what arrived, often a few KiB: write in larger pieces, in a thread.
    pending = bytearray()
    total = 0
    async for chunk in stream:
        total += len(chunk)
        if total > limit_bytes:
            raise _too_large(limit_bytes)
        pending += chunk
        if len(pending) >= _CHUNK_BYTES:
            await run_in_threadpool(file.write, bytes(pending))
            pending.clear()
    await run_in_threadpool(_finish, file, bytes(pending))


def _finish(file: BinaryIO, rest: bytes) -> None:
    file.write(rest)
    file.flush()
    os.fsync(file.fileno())


def _check_room(context: Context, expected_bytes: int) -> None:
    if expected_bytes > context.upload_limit_bytes:
        raise _too_large(context.upload_limit_bytes)
    free_bytes = shutil.disk_usage(context.transfers_dir).free
    if expected_bytes > free_bytes:
        raise OperationalError(
            Kind.FAULT,
            "upload",
            f"the file has {format_size(expected_bytes)}, but only {format_size(free_bytes)} are free",
            f"make room on the file system of {context.transfers_dir}",
        )


def _too_large(limit_bytes: int) -> OperationalError:
    return OperationalError(Kind.INVALID, "upload", f"the file is larger than {format_size(limit_bytes)}")


def send_and_remove(path: Path, context: Context) -> AsyncIterator[bytes]:
    """The file's bytes. It is removed at once; its open descriptor keeps the bytes until they are sent."""
    file = path.open("rb")
    path.unlink()
    return _send(file, context)


async def _send(file: BinaryIO, context: Context) -> AsyncIterator[bytes]:
    with file, context.threads.stream():
        while chunk := await run_in_threadpool(file.read, _CHUNK_BYTES):
            yield chunk
