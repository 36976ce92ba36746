"""The image library of one host: immutable images by content, and names that move from one to the next."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from forkbed.base.ids import ImageId
from forkbed.core.images.bundle import RecipeBundle as RecipeBundle
from forkbed.ports.progress import Progress


@dataclass(frozen=True, slots=True)
class ImageFile:
    """The stored file of an image. `size_bytes` is the size of the disk it holds."""

    path: Path
    format: str  # "qcow2" or "raw"
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ImageView:
    """An image. `names` are the `NAME:CHANNEL` that point at it now; `provenance` says where it came from."""

    id: ImageId
    names: tuple[str, ...]
    size_bytes: int  # of the disk
    stored_bytes: int  # of the file
    created_at: float
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TagMove:
    """One move of a `NAME:CHANNEL`. `before` is "" for the first."""

    name: str
    at: float
    account: str
    image_id: ImageId
    before: str


class ImageLibrary(Protocol):
    def images(self) -> Sequence[ImageView]:
        """All images, newest first."""

    def resolve(self, reference: str) -> ImageView:
        """The image of `NAME`, `NAME:CHANNEL` or the beginning of an id. NOT_FOUND with a suggestion."""

    def file(self, image_id: ImageId) -> ImageFile:
        """The stored file, verified against its hash (cheaply after the first time). FAULT if it was altered."""

    def build(self, recipe: RecipeBundle, account: str, at: float, progress: Progress) -> ImageView:
        """Build the recipe, or take the earlier result of the same recipe, and name it as the recipe says."""

    def import_file(self, path: Path, name: str, account: str, at: float, progress: Progress) -> ImageView:
        """Check a foreign disk file, convert it and name it. INVALID for what no image can be."""

    def export(self, image_id: ImageId, target: Path, format: str, progress: Progress) -> None:  # noqa: A002
        """Write the image to a new file `target` as qcow2 (compressed) or raw."""

    def tag(self, image_id: ImageId, name: str, account: str, at: float) -> TagMove:
        """Make `NAME:CHANNEL` point at the image."""

    def history(self, name: str) -> Sequence[TagMove]:
        """Every move of `NAME:CHANNEL`, or of all channels of `NAME`, oldest first. NOT_FOUND if there is none."""

    def remove(self, image_id: ImageId, in_use: Collection[ImageId]) -> None:
        """Remove the image and its names. CONFLICT if it is among `in_use`."""
