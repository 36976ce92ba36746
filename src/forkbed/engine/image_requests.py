"""What callers hand to the controller about images and garbage, and get back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from forkbed.core.operations.records import Operation, Requester


class ExportFormat(StrEnum):
    QCOW2 = "qcow2"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class RecipeBundle:
    """A recipe as text with the local files it names; paths as written in the recipe."""

    file_name: str  # as the person typed it, for error messages
    text: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """One image. `names` are those that point to it now, each with its channel: `boss:dev`."""

    id: str  # BLAKE3 of the guest-visible content
    names: tuple[str, ...]
    kind: str  # "micro", "debian", "foreign"
    format: str  # of the stored file
    virtual_size_bytes: int
    stored_size_bytes: int
    created_at: float
    used_by: tuple[str, ...]  # "boss-ops/boss"


@dataclass(frozen=True, slots=True)
class ImageDetail:
    """An image with where it came from. `file_hash` is the BLAKE3 of the stored file."""

    summary: ImageSummary
    file_hash: str
    source: str  # the recipe's text, or the name of the imported file
    base_id: str = ""  # the image it was built on
    packages: tuple[str, ...] = ()  # "postgresql-15 15.8-0+deb12u1"
    requester: Requester | None = None


@dataclass(frozen=True, slots=True)
class TagRecord:
    """A name with its channel pointed to an image from `at` on; an empty id when the name was removed."""

    at: float
    name: str
    image_id: str
    requester: Requester


@dataclass(frozen=True, slots=True)
class GarbageItem:
    """One thing on the host that nothing needs: "volume", "network", "domain", "image-file", …"""

    kind: str
    name: str
    reason: str
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What a collection would remove (`operation` is None: dry run) or is removing."""

    items: tuple[GarbageItem, ...]
    operation: Operation | None = None
