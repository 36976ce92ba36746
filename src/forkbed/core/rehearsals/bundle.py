"""What a client hands in with a file of steps: everything it names on the client's disk, by value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StepsBundle:
    """A file of steps with the local files that they push, by the path as written."""

    file_name: str  # as the person typed it, for error messages
    text: str
    files: Mapping[str, bytes] = field(default_factory=dict)
