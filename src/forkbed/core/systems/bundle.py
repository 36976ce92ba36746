"""What a client hands in with a manifest: everything the manifest names on the client's disk, by value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ManifestBundle:
    """A manifest as text with the local files it names.

    `files` and `secrets` map the path as written in the manifest (`source: app/main.py`) to the bytes.
    `variables` are those set on the command line; they win over the manifest's own defaults.
    """

    file_name: str  # as the person typed it, for error messages
    text: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
