"""Bodies of requests, and results of operations, where they are not the engine's own options and views.

Standard library only: the command line imports it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.engine.branching import MachineCutSummary
from forkbed.engine.requests import PowerAction, UpOptions


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
