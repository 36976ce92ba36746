"""How an image is named: `NAME`, `NAME:CHANNEL`, or the beginning of its id."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import ImageId, is_name
from forkbed.base.words import quoted, suggest

DEFAULT_CHANNEL = "latest"
SHORT_ID_LENGTH = 12
_CHANNEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ID_PREFIX = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True, slots=True)
class ImageName:
    """A channel of a name; written `NAME:CHANNEL`, the default channel may be left out when asking."""

    name: str
    channel: str = DEFAULT_CHANNEL

    def __str__(self) -> str:
        return f"{self.name}:{self.channel}"


@dataclass(frozen=True, slots=True)
class IdPrefix:
    """The first 8 to 64 hexadecimal digits of an image's id."""

    digits: str


Reference = ImageName | IdPrefix


def short_id(image_id: ImageId) -> str:
    """An id as people see it."""
    return image_id[:SHORT_ID_LENGTH]


def parse_reference(text: str) -> Reference:
    """What `text` refers to. Eight and more hexadecimal digits are an id; INVALID if it is neither."""
    if _ID_PREFIX.fullmatch(text):
        return IdPrefix(text)
    return parse_name(text)


def parse_name(text: str) -> ImageName:
    """The `NAME` or `NAME:CHANNEL` in `text`. INVALID if it cannot be one."""
    name, colon, channel = text.partition(":")
    if not is_name(name) or _ID_PREFIX.fullmatch(name):
        raise OperationalError(
            Kind.INVALID,
            "image",
            f"{quoted(text)} cannot be the name of an image",
            "write NAME or NAME:CHANNEL; a name has small letters, digits and `-`, begins with a letter, and "
            "does not look like an id",
        )
    if colon and not _CHANNEL.fullmatch(channel):
        raise OperationalError(
            Kind.INVALID,
            "image",
            f"{quoted(channel)} cannot be a channel",
            "a channel has small letters, digits, `.`, `_` and `-`, such as `production`",
        )
    return ImageName(name, channel or DEFAULT_CHANNEL)


def find(text: str, names: Mapping[ImageName, ImageId], ids: Collection[ImageId]) -> ImageId:
    """The image that `text` refers to. NOT_FOUND with a suggestion, CONFLICT for an ambiguous id."""
    reference = parse_reference(text)
    if isinstance(reference, ImageName):
        if reference in names:
            return names[reference]
        raise _not_found(text, [_asked_for(name) for name in sorted(names, key=str)])
    found = sorted(image_id for image_id in ids if image_id.startswith(reference.digits))
    if not found:
        raise _not_found(text, [])
    if len(found) > 1:
        raise OperationalError(
            Kind.CONFLICT,
            "image",
            f"{quoted(text)} is the beginning of {len(found)} images",
            "write more digits: " + ", ".join(short_id(image_id) for image_id in found[:8]),
        )
    return found[0]


def _asked_for(name: ImageName) -> str:
    return name.name if name.channel == DEFAULT_CHANNEL else str(name)


def _not_found(text: str, known: list[str]) -> OperationalError:
    remedy = suggest(text, known) or "build it with `forkbed image build`, or import it"
    return OperationalError(Kind.NOT_FOUND, "image", f"there is no image {quoted(text)}", remedy)
