"""`ports.sidecars` as one JSON file a document, so that a lost database can be rebuilt from the host."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers.durable import read_files, remove_durably, sync_directory, write_json_durably

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_SUFFIX = ".json"


class FileSidecars:
    """Documents as `directory`/KIND/NAME.json, readable by root only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, kind: str, name: str, content: Mapping[str, object]) -> None:
        """Store the document; it and its name are on disk when this returns."""
        path = self._path(kind, name)
        try:
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
                sync_directory(path.parent.parent)
        except OSError as error:
            raise OperationalError(
                Kind.FAULT, str(path.parent), f"cannot be made: {error.strerror}"
            ) from error
        write_json_durably(path, content)

    def read_all(self, kind: str) -> Mapping[str, Mapping[str, object]]:
        """Every document of that kind by name. A file that is no JSON object is a FAULT, never skipped."""
        directory = self._path(kind, "any").parent
        return {
            path.name.removesuffix(_SUFFIX): _parse(path, data)
            for path, data in read_files(directory, f"*{_SUFFIX}")
        }

    def remove(self, kind: str, name: str) -> None:
        """Forget the document, if there is one."""
        path = self._path(kind, name)
        try:
            if path.parent.is_dir():
                remove_durably(path)
        except OSError as error:
            raise OperationalError(Kind.FAULT, str(path), f"cannot be removed: {error.strerror}") from error

    def _path(self, kind: str, name: str) -> Path:
        for part in (kind, name):
            if not _PLAIN_NAME.fullmatch(part):
                raise ValueError(f"not a plain name: {part!r}")
        return self._directory / kind / f"{name}{_SUFFIX}"


def _parse(path: Path, data: bytes) -> Mapping[str, object]:
    try:
        content = json.loads(data)
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
    except ValueError as error:
        raise OperationalError(
            Kind.FAULT, str(path), f"cannot be read: {error}", "move the file away, or restore it"
        ) from error
    return content
