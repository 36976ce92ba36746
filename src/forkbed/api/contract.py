"""What client and server agree on besides the engine's own views and options, and `bodies`: headers and limits.

Light: the command line imports it at every start.
"""

from __future__ import annotations

from enum import StrEnum
from urllib.parse import quote, unquote

from forkbed.base.errors import Kind, OperationalError

PREFIX = "/v1"
COMMAND_HEADER = "Forkbed-Command"
"""The command as the person typed it, percent-encoded: the first link of the reason trail."""
IDEMPOTENCY_HEADER = "Idempotency-Key"
IF_MATCH_HEADER = "If-Match"
LAST_EVENT_HEADER = "Last-Event-ID"
EVENT_STREAM = "text/event-stream"
OCTETS = "application/octet-stream"
BODY_LIMIT_BYTES = 256 * 1024 * 1024
"""The largest JSON body: a manifest with the files it names. Images are streamed and have a limit of their own."""
COMMAND_LIMIT = 1000


class ExportFormat(StrEnum):
    """The form in which an image leaves."""

    QCOW2 = "qcow2"
    RAW = "raw"


def entity_tag(revision: int) -> str:
    """The ETag of a system at that revision."""
    return f'"{revision}"'


def revision_of_tag(tag: str) -> int | None:
    """The revision that an If-Match header demands; None for `*`. Raises INVALID for any other form."""
    text = tag.strip()
    if text == "*":
        return None
    number = text[1:-1]
    if len(text) < 3 or text[0] != '"' or text[-1] != '"' or not (number.isascii() and number.isdigit()):
        raise OperationalError(
            Kind.INVALID,
            IF_MATCH_HEADER,
            f"not a revision: {text[:100]}",
            'give the ETag of the system as it was answered, such as "3"',
        )
    return int(number)


def quote_command(command: str) -> str:
    """A command line for the header, cut at a sensible length."""
    return quote(command[:COMMAND_LIMIT], safe=" /:=,.@+-_")


def unquote_command(value: str) -> str:
    """The command line of a header, cut at a sensible length and without control characters."""
    return "".join(character for character in unquote(value)[:COMMAND_LIMIT] if character.isprintable())
