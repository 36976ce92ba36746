"""The files that Forkbed puts into guests: from the package's data into a root file system."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

_DATA = resources.files("forkbed.drivers.images.guest")


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A file of the package's data (`name` under `guest/`) and where it goes (`path` inside the guest)."""

    name: str
    path: str
    mode: int = 0o644


SEED_APPLY = GuestFile("seed-apply", "usr/lib/forkbed/seed-apply", 0o755)


def content(name: str) -> bytes:
    """The bytes of a guest file."""
    return _DATA.joinpath(name).read_bytes()


def install(files: Iterable[GuestFile], root: Path) -> None:
    """Copy guest files into a root file system, root-owned, directories made as needed."""
    for file in files:
        write(root / file.path, content(file.name), file.mode)


def write(path: Path, data: bytes | str, mode: int = 0o644) -> None:
    """Write one file of a root file system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    path.chmod(mode)


def link(path: Path, target: str) -> None:
    """Make a symbolic link of a root file system, in place of what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.symlink(target, path)


def step(name: str) -> Path:
    """The path of a shell step of the build, for `sh`."""
    return Path(str(resources.files("forkbed.drivers.images.steps").joinpath(name)))
