"""What client and server agree on besides the engine's own views and options: headers, limits, bodies of requests.

Standard library only: the command line imports it at every start.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import quote, unquote

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.engine.branching import MachineCutSummary
from forkbed.engine.requests import PowerAction, UpOptions

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


@dataclass(frozen=True, slots=True)
class BundleBody:
    """A manifest (or image recipe) with the local files it names. `files` and `secrets` map the path as written
    to base64."""

    file_name: str
    text: str
    files: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UpBody:
    """A manifest to plan or bring up. `destroy` names machines (`boss`) or volumes (`boss/data`) whose data may
    be lost."""

    bundle: BundleBody
    restart: bool = False
    destroy: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DownBody:
    """`delete` removes the system with its data."""

    delete: bool = False


@dataclass(frozen=True, slots=True)
class PowerBody:
    """`machines` empty: all of the system. `force` ends a machine without asking its guest."""

    action: PowerAction
    machines: tuple[str, ...] = ()
    force: bool = False


@dataclass(frozen=True, slots=True)
class TagBody:
    """`name` is a name with a channel: `boss:production`."""

    name: str


@dataclass(frozen=True, slots=True)
class GarbageBody:
    """`dry_run` only tells what would be removed."""

    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class RollbackBody:
    """The name of the snapshot to go back to."""

    snapshot: str


@dataclass(frozen=True, slots=True)
class ForkResult:
    """What the result of a fork's operation holds: the new systems, and the cut they were made of."""

    forks: tuple[str, ...] = ()
    cut_at: float | None = None
    skew_s: float = 0.0
    machines: tuple[MachineCutSummary, ...] = ()


def bundle_body(bundle: ManifestBundle) -> BundleBody:
    """The bundle as a request's body."""
    return BundleBody(
        file_name=bundle.file_name,
        text=bundle.text,
        files=_to_base64(bundle.files),
        secrets=_to_base64(bundle.secrets),
        variables=dict(bundle.variables),
    )


def bundle_of(body: BundleBody) -> ManifestBundle:
    """The bundle that a body carries. Raises INVALID for what is not base64."""
    return ManifestBundle(
        file_name=body.file_name,
        text=body.text,
        files=_from_base64(body.files),
        secrets=_from_base64(body.secrets),
        variables=body.variables,
    )


def up_body(bundle: ManifestBundle, options: UpOptions) -> UpBody:
    """Manifest and options as a request's body."""
    return UpBody(bundle_body(bundle), restart=options.restart, destroy=tuple(sorted(options.destroy)))


def up_options(body: UpBody) -> UpOptions:
    """The options that a body carries."""
    return UpOptions(restart=body.restart, destroy=frozenset(body.destroy))


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


def _to_base64(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {path: base64.b64encode(content).decode() for path, content in contents.items()}


def _from_base64(contents: Mapping[str, str]) -> dict[str, bytes]:
    decoded = {}
    for path, text in contents.items():
        try:
            decoded[path] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise OperationalError(
                Kind.INVALID, path, f"its content is not base64: {error}", "send each file's bytes as base64"
            ) from error
    return decoded
