"""What a client hands in with an image recipe: everything the recipe names on the client's disk, by value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RecipeBundle:
    """A recipe as text with the local files it names, by their path as written."""

    file_name: str
    text: str
    files: Mapping[str, bytes] = field(default_factory=dict)
