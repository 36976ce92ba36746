"""The stored files of images: immutable, found by id, verified before use.

An image is two files: `ID.qcow2` (root-owned, 0444) and `ID.json`, which is written last, so that a half-stored
image does not exist. `ID.verified` remembers what the file looked like when it was last read in full.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import ImageId
from forkbed.core.images.reference import short_id
from forkbed.drivers import durable
from forkbed.drivers.images.content import hash_file
from forkbed.ports.images import ImageFile

FORMAT = "qcow2"


@dataclass(frozen=True, slots=True)
class StoredImage:
    """What is known of an image. `stored_blake3` is of the file's own bytes, `id` of the disk's."""

    id: ImageId
    size_bytes: int
    stored_bytes: int
    stored_blake3: str
    created_at: float
    provenance: Mapping[str, str] = field(default_factory=dict)


class ImageStore:
    """The directory of images."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def all(self) -> list[StoredImage]:
        """Every image, newest first."""
        images = [self._parse(data) for _, data in durable.read_files(self.directory, "*.json")]
        return sorted(images, key=lambda image: (-image.created_at, image.id))

    def get(self, image_id: ImageId) -> StoredImage:
        """The image of that id, else NOT_FOUND."""
        path = self._path(image_id, "json")
        if not path.exists():
            raise OperationalError(
                Kind.NOT_FOUND, f"image {short_id(image_id)}", "is not in the library of this host"
            )
        return self._parse(path.read_bytes())

    def add(self, file: Path, image: StoredImage) -> StoredImage:
        """Take over `file` (a qcow2 file in the same file system). A good image that is there already stays."""
        with suppress(OperationalError):
            self.file(image.id)
            file.unlink()
            return self.get(image.id)
        os.chown(file, 0, 0)
        file.chmod(0o444)
        target = self._path(image.id, FORMAT)
        durable.put_in_place(file, target)
        self._remember(image.id, target)
        durable.write_json_durably(self._path(image.id, "json"), {"version": 1, **asdict(image)}, mode=0o644)
        return image

    def file(self, image_id: ImageId) -> ImageFile:
        """The image's file, verified. FAULT if it is gone or altered."""
        image = self.get(image_id)
        path = self._path(image_id, FORMAT)
        try:
            looks = _looks(path)
        except FileNotFoundError:
            raise self._altered(image_id, "its file is gone") from None
        if looks != self._remembered(image_id):
            if hash_file(path) != image.stored_blake3:
                raise self._altered(image_id, "its file was altered")
            self._remember(image_id, path)
        return ImageFile(path, FORMAT, image.size_bytes)

    def remove(self, image_id: ImageId) -> None:
        """Remove the image; what is there of it."""
        for suffix in ("json", "verified", FORMAT):
            self._path(image_id, suffix).unlink(missing_ok=True)
        durable.sync_directory(self.directory)

    def _path(self, image_id: ImageId, suffix: str) -> Path:
        return self.directory / f"{image_id}.{suffix}"

    def _parse(self, data: bytes) -> StoredImage:
        document = json.loads(data)
        document.pop("version")
        return StoredImage(**document)

    def _remembered(self, image_id: ImageId) -> list[int] | None:
        with suppress(FileNotFoundError, json.JSONDecodeError):
            looks: list[int] = json.loads(self._path(image_id, "verified").read_text())
            return looks
        return None

    def _remember(self, image_id: ImageId, path: Path) -> None:
        self._path(image_id, "verified").write_text(json.dumps(_looks(path)))

    def _altered(self, image_id: ImageId, what: str) -> OperationalError:
        return OperationalError(
            Kind.FAULT,
            f"image {short_id(image_id)}",
            f"cannot be used: {what}",
            "remove it and build or import it again; machines on it need their own copy of the file back",
        )


def _looks(path: Path) -> list[int]:
    """What changes whenever a file's bytes may have changed."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]
