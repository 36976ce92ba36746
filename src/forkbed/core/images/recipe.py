"""What an image is built from, and the key under which the same build is found again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum

BUILT_IN_BASES = ("debian-12", "micro")


class KernelFlavour(StrEnum):
    """Which of Debian's kernels: the small one for virtual machines, or the one with every driver."""

    CLOUD = "cloud"
    GENERIC = "generic"


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A file placed in the image. `owner` is `user:group`, by the image's own accounts."""

    path: str
    content: bytes
    mode: int = 0o644
    owner: str = "root:root"


@dataclass(frozen=True, slots=True)
class RecipeSpec:
    """An image that somebody wants. `base` is a built-in one or the reference of another image.

    Packages come first, then files, then commands, which run in the image's root file system as root.
    `kernel` and `size_bytes` are None where the base's own are right.
    """

    name: str
    base: str
    packages: tuple[str, ...] = ()
    files: tuple[RecipeFile, ...] = ()
    commands: tuple[str, ...] = ()
    size_bytes: int | None = None
    kernel: KernelFlavour | None = None

    @property
    def changes_base(self) -> bool:
        """Whether the root file system differs from the base's."""
        return bool(self.packages or self.files or self.commands)


def base_key(base: str, kernel: KernelFlavour, builder: str) -> str:
    """The key of a built-in base's root file system; `builder` stands for all that Forkbed puts into it."""
    return _key("base", base, str(kernel), builder)


def root_key(base: str, recipe: RecipeSpec) -> str:
    """The key of the root file system that a recipe makes of the one with key `base`."""
    if not recipe.changes_base:
        return base
    files = [
        [file.path, hashlib.sha256(file.content).hexdigest(), file.mode, file.owner] for file in recipe.files
    ]
    return _key("root", base, list(recipe.packages), files, list(recipe.commands))


def disk_key(root: str, size_bytes: int, builder: str) -> str:
    """The key of the disk of that size with the root file system of key `root`, as `builder` writes disks."""
    return _key("disk", root, size_bytes, builder)


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
