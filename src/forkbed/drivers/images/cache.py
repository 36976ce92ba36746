"""What builds left behind, found again by key: finished disks and root file systems, within a limit.

What was not asked for the longest goes first. Everything here can be made again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from forkbed.base.ids import ImageId
from forkbed.drivers import durable

LIMIT_BYTES = 8 * 1024**3


@dataclass(frozen=True, slots=True)
class BuiltDisk:
    """A finished disk in the cache: what the library needs to take it over."""

    path: Path
    image_id: ImageId
    size_bytes: int
    stored_blake3: str
    root_key: str
    os: str
    seed: str  # how its guests are set up: "forkbed", "cloud-init" or "none"


class BuildCache:
    """One directory of results. Whoever adds or trims must have the turn to build."""

    def __init__(self, directory: Path) -> None:
        self._disks, self._roots = directory / "disks", directory / "roots"
        for part in (self._disks, self._roots):
            part.mkdir(parents=True, exist_ok=True)

    def disk(self, key: str) -> BuiltDisk | None:
        """The disk of that key, if it is there."""
        path = self._disks / f"{key}.qcow2"
        with suppress(FileNotFoundError):
            built = BuiltDisk(**json.loads(path.with_suffix(".json").read_text()))
            os.utime(path)
            return replace(built, path=path)
        return None

    def add_disk(self, key: str, built: BuiltDisk) -> BuiltDisk:
        """Take over the finished file at `built.path`."""
        path = self._disks / f"{key}.qcow2"
        built.path.chmod(0o444)
        durable.put_in_place(built.path, path)
        durable.write_json_durably(
            path.with_suffix(".json"), {**asdict(built), "path": path.name}, mode=0o644
        )
        return replace(built, path=path)

    def root(self, key: str) -> Path | None:
        """The archive of the root file system of that key, if it is there."""
        path = self._roots / f"{key}.tar.zst"
        with suppress(FileNotFoundError):
            os.utime(path)
            return path
        return None

    def add_root(self, key: str, archive: Path) -> None:
        """Take over a finished archive."""
        durable.put_in_place(archive, self._roots / f"{key}.tar.zst")

    def trim(self, keep: Collection[str], limit_bytes: int = LIMIT_BYTES) -> None:
        """Remove the results that were not used for the longest, but those of the keys in `keep`, until all
        fits into `limit_bytes`."""
        sizes = {path: path.stat() for path in (*self._disks.glob("*.qcow2"), *self._roots.glob("*.tar.zst"))}
        total = sum(status.st_size for status in sizes.values())
        for path, status in sorted(sizes.items(), key=lambda entry: entry[1].st_mtime):
            if total <= limit_bytes:
                return
            if path.name.split(".")[0] not in keep:
                path.with_suffix(".json").unlink(missing_ok=True)
                path.unlink()
                total -= status.st_size
