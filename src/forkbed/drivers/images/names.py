"""Names and channels of images, with every move they made: one JSON file for each name.

These files are the only record, readable by people, and survive the loss of the database.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forkbed.base.ids import ImageId
from forkbed.core.images.reference import ImageName
from forkbed.drivers import durable
from forkbed.ports.images import TagMove


class NameFiles:
    """The directory of names. Safe to use from several threads of one process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True)

    def current(self) -> dict[ImageName, ImageId]:
        """Where every name points now."""
        return {
            ImageName(path.stem, channel): ImageId(image_id)
            for path in self._directory.glob("[!.]*.json")
            for channel, image_id in _read(path)["channels"].items()
        }

    def move(self, name: ImageName, image_id: ImageId, account: str, at: float) -> TagMove:
        """Make `name` point at the image, and write down that it moved; nothing is written if it does so already."""
        with self._lock:
            path = self._path(name.name)
            document = _read(path)
            before = document["channels"].get(name.channel, "")
            move = TagMove(str(name), at, account, image_id, before)
            if before != image_id:
                document["channels"][name.channel] = image_id
                document["moves"].append(
                    {
                        "channel": name.channel,
                        "at": at,
                        "account": account,
                        "image_id": image_id,
                        "before": before,
                    }
                )
                durable.write_json_durably(path, document, mode=0o644)
            return move

    def history(self, name: str) -> list[TagMove]:
        """The moves of all channels of `name`, oldest first."""
        return [
            TagMove(
                str(ImageName(name, move["channel"])),
                move["at"],
                move["account"],
                ImageId(move["image_id"]),
                move["before"],
            )
            for move in _read(self._path(name))["moves"]
        ]

    def forget(self, image_id: ImageId) -> None:
        """Remove every name that points at the image; their histories stay."""
        with self._lock:
            for path in self._directory.glob("[!.]*.json"):
                document = _read(path)
                kept = {
                    channel: pointed
                    for channel, pointed in document["channels"].items()
                    if pointed != image_id
                }
                if kept != document["channels"]:
                    durable.write_json_durably(path, {**document, "channels": kept}, mode=0o644)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        document: Mapping[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {"version": 1, "channels": {}, "moves": []}
    return dict(document)
