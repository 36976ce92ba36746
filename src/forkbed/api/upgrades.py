"""Bodies of requests about upgrades, and what the results of their operations hold.

Standard library only, like `contract`: the command line imports it at every start.
"""

from __future__ import annotations

from dataclasses import dataclass

from forkbed.api.bodies import BundleBody, bundle_body, bundle_of
from forkbed.core.rehearsals.bundle import StepsBundle
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.engine.promoting import DiffOptions, RehearseOptions


@dataclass(frozen=True, slots=True)
class RehearseBody:
    """`bundle` is a file of steps with the files it pushes. `name` is the fork's, made if left out. `twice`: on
    two forks of one cut, to find what differs for no reason."""

    bundle: BundleBody
    name: str = ""
    twice: bool = False


@dataclass(frozen=True, slots=True)
class DiffBody:
    """Two related systems. `base`: hold both against what they have in common. `paths` limit what is looked at;
    `texts`: differences within text files too; `everything`: also what always differs (logs, caches)."""

    left: str
    right: str
    base: bool = False
    paths: tuple[str, ...] = ()
    texts: bool = False
    everything: bool = False


@dataclass(frozen=True, slots=True)
class RevertBody:
    """`accept_loss`: go back although the present generation has written since."""

    accept_loss: bool = False


@dataclass(frozen=True, slots=True)
class MaintenanceBody:
    """`on`: keep the system's users off; else let them back."""

    on: bool


@dataclass(frozen=True, slots=True)
class RehearseResult:
    """What the result of a rehearsal's operation holds."""

    rehearsal: str = ""
    passed: bool = True


@dataclass(frozen=True, slots=True)
class PromoteResult:
    """What the result of a promotion's operation holds. `kept` is the system that holds the generation before it."""

    generation: int | None = None
    freeze_s: float | None = None
    predicted_s: float | None = None
    kept: str = ""


@dataclass(frozen=True, slots=True)
class RevertResult:
    """What the result of a revert's operation holds. `kept` is the system that holds the generation that it left,
    `lost` what that had written since it took over."""

    generation: int | None = None
    kept: str = ""
    lost: tuple[str, ...] = ()


def rehearse_body(steps: StepsBundle, options: RehearseOptions) -> RehearseBody:
    """Steps and options as a request's body."""
    bundle = bundle_body(ManifestBundle(steps.file_name, steps.text, steps.files))
    return RehearseBody(bundle, options.name, options.twice)


def steps_of(body: RehearseBody) -> StepsBundle:
    """The steps that a body carries. Raises INVALID for what is not base64."""
    bundle = bundle_of(body.bundle)
    return StepsBundle(bundle.file_name, bundle.text, bundle.files)


def rehearse_options(body: RehearseBody) -> RehearseOptions:
    """The options that a body carries."""
    return RehearseOptions(body.name, body.twice)


def diff_body(left: str, right: str, options: DiffOptions) -> DiffBody:
    """Two systems and options as a request's body."""
    return DiffBody(left, right, options.base, options.paths, options.texts, options.everything)


def diff_options(body: DiffBody) -> DiffOptions:
    """The options that a body carries."""
    return DiffOptions(body.base, body.paths, body.texts, body.everything)
