"""Unpack a tar stream that is not trusted: nothing lands outside the target, or is written through a link.

Files, directories, symbolic and hard links are made; anything else is left out and told. Everything belongs to
the account that unpacks; permissions are kept but for set-uid and set-gid, which a guest has no say in.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

from forkbed.base.errors import Kind, OperationalError

_COPY_BYTES = 1024 * 1024


class Extraction:
    """Members of one archive, whose names have one common top, below `directory`; `name` replaces the top."""

    def __init__(self, directory: Path, name: str, tell: Callable[[str], None]) -> None:
        self._directory = directory
        self._name = name
        self._tell = tell
        self._made_directories: dict[Path, tarfile.TarInfo] = {}
        self._made_files: set[Path] = set()
        self._count = 0

    def take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Make one member. Raises UNSAFE for one that leads elsewhere, CONFLICT if something is in its way."""
        path = self._place(member.name)
        self._count += 1
        if member.isdir():
            self._make_directory(path, member)
        elif member.isreg():
            self._clear(path)
            self._make_file(path, member, cast(IO[bytes], tar.extractfile(member)))
        elif member.issym():
            self._clear(path)
            path.symlink_to(member.linkname)
        elif member.islnk():
            original = self._place(member.linkname)
            if original not in self._made_files:
                raise _unsafe(member.linkname)
            self._clear(path)
            path.hardlink_to(original)
        else:
            self._tell(f"left out, neither file nor directory: {member.name}")

    def finish(self) -> None:
        """Give the directories their permissions, which might have forbidden to fill them."""
        for path, member in reversed(self._made_directories.items()):
            path.chmod(member.mode & 0o777)
            os.utime(path, (member.mtime, member.mtime))
        if not self._count:
            raise OperationalError(Kind.FAULT, str(self._directory), "nothing came from the machine")

    def _place(self, name: str) -> Path:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not parts or ".." in parts or name.startswith("/"):
            raise _unsafe(name)
        path = self._directory.joinpath(self._name or parts[0], *parts[1:])
        # Below the top, only directories that were seen to be real ones are entered.
        if len(parts) > 1 and path.parent not in self._made_directories:
            raise _unsafe(name)
        return path

    def _make_directory(self, path: Path, member: tarfile.TarInfo) -> None:
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            if not stat.S_ISDIR(path.lstat().st_mode):
                raise _in_the_way(path, "something else than a directory") from None
        self._made_directories[path] = member

    def _make_file(self, path: Path, member: tarfile.TarInfo, content: IO[bytes]) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(content, file, _COPY_BYTES)
            os.fchmod(file.fileno(), member.mode & 0o777)
        os.utime(path, (member.mtime, member.mtime))
        self._made_files.add(path)

    def _clear(self, path: Path) -> None:
        try:
            path.unlink()
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            if path.is_dir() and not path.is_symlink():
                raise _in_the_way(path, "a directory") from None
            raise


def _unsafe(name: str) -> OperationalError:
    return OperationalError(
        Kind.UNSAFE, name, "the machine sent a name that leads out of the target, so nothing more is taken"
    )


def _in_the_way(path: Path, what: str) -> OperationalError:
    return OperationalError(Kind.CONFLICT, str(path), f"{what} is in the way", "move it, or copy elsewhere")
