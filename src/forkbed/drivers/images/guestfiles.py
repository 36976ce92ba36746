"""The files that Forkbed puts into guests: from the package's data into a root file system."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from forkbed.drivers import processes

_DATA = resources.files("forkbed.drivers.images.guest")


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A file of the package's data (`name` under `guest/`) and where it goes (`path` inside the guest)."""

    name: str
    path: str
    mode: int = 0o644


SEED_APPLY = GuestFile("seed-apply", "usr/lib/forkbed/seed-apply", 0o755)

AWAKEN = GuestFile("awaken.c", "usr/lib/forkbed/awaken", 0o755)
_COMPILE = (
    *("gcc", "-x", "c", "-Os", "-s", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector"),
    *("-fno-asynchronous-unwind-tables", "-Wl,--build-id=none", "-Wl,-z,noseparate-code"),
)


def content(name: str) -> bytes:
    """The bytes of a guest file."""
    return _DATA.joinpath(name).read_bytes()


def install(files: Iterable[GuestFile], root: Path) -> None:
    """Copy guest files into a root file system, root-owned, directories made as needed."""
    for file in files:
        write(root / file.path, content(file.name), file.mode)


def compile_program(source: GuestFile, root: Path) -> None:
    """Make a static program of a C file among the guest files."""
    program = root / source.path
    program.parent.mkdir(parents=True, exist_ok=True)
    processes.run(
        (*_COMPILE, "-o", program, "-"),
        input=content(source.name),
        subject=f"program {source.path} of an image",
        remedy="install gcc and libc6-dev",
    )
    program.chmod(source.mode)


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
