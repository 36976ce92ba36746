"""Files that are either wholly there, on disk, or not at all: written beside, synced, renamed, directory synced."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError

TEMPORARY_SUFFIX = ".tmp"


def temporary_beside(path: Path) -> Path:
    """A fresh name in the same directory, for what will be renamed to `path` when it is complete."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def sweep_temporaries(directory: Path) -> None:
    """Remove what writers left that died half-way. Only while nobody else writes there."""
    for path in directory.glob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


def write_durably(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace the file by one with these bytes; on disk when this returns. Raises FAULT."""
    temporary = temporary_beside(path)
    try:
        write_new(temporary, data, mode=mode)
        put_in_place(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def write_new(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Make the file, which is not there, with these bytes; never with a wider mode. Not synced. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        os.fchmod(descriptor, mode)


def write_json_durably(path: Path, document: Mapping[str, object], *, mode: int = 0o600) -> None:
    """`write_durably` for a JSON document that people may want to read."""
    write_durably(path, _as_text(document), mode=mode)


def write_for_this_boot(path: Path, document: Mapping[str, object]) -> None:
    """As `write_json_durably`, but it waits for no disk: after a crash of the host anything may be there."""
    temporary = temporary_beside(path)
    try:
        temporary.write_bytes(_as_text(document))
        temporary.chmod(0o600)
        temporary.rename(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _as_text(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _unwritable(path: Path, error: OSError) -> OperationalError:
    return OperationalError(
        Kind.FAULT, str(path), f"cannot be written: {error.strerror}", "look for space and permissions"
    )


def read_files(directory: Path, pattern: str) -> Iterator[tuple[Path, bytes]]:
    """The files of that pattern with their bytes, by name; hidden ones are left out.

    One that is removed while we look is as if it had never been listed: others write and remove at any time.
    Raises FAULT for one that is there and cannot be read.
    """
    for path in sorted(directory.glob(pattern)):
        if path.name.startswith("."):
            continue
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OperationalError(
                Kind.FAULT, str(path), f"cannot be read: {error.strerror}", "look at its owner and the disk"
            ) from error
        yield path, data


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a complete file to its name, with both its content and the name on disk. Raises OSError."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.rename(path)
    sync_directory(path.parent)


def remove_durably(path: Path) -> bool:
    """Remove the file and have that on disk; returns whether it was there. Raises OSError."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    sync_directory(path.parent)
    return True


def sync_directory(directory: Path) -> None:
    """Have the names in the directory on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
