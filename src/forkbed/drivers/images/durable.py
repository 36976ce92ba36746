"""Files that are whole or not there: written aside, on disk, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def sync_path(path: Path) -> None:
    """Have a file's content, or a directory's entries, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_into_place(source: Path, target: Path) -> None:
    """Rename a finished file to where it belongs, durably."""
    sync_path(source)
    source.rename(target)
    sync_path(target.parent)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a small JSON file durably."""
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    move_into_place(aside, path)
