"""Decide whether a rehearsal may be promoted, and say what to do where it may not. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.rehearsals.records import Rehearsal, RehearsalStatus, declaration_digest
from forkbed.core.systems.spec import ResolvedSystem


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a rehearsal may not be promoted, and what to do about it."""

    reason: str
    remedy: str

    def error(self, rehearsal: str) -> OperationalError:
        """The same as an error of the rehearsal with this name."""
        brief = f"may not be promoted: {self.reason}"
        return OperationalError(Kind.CONFLICT, f"rehearsal {rehearsal}", brief, self.remedy)


def promotion_refusal(rehearsal: Rehearsal, system: ResolvedSystem) -> Refusal | None:
    """Why what was rehearsed may not be promoted to the system as it is declared now."""
    if rehearsal.status is RehearsalStatus.RUNNING:
        return Refusal("it has not ended yet", "wait until the rehearsal is over")
    if rehearsal.status is RehearsalStatus.FAILED:
        return Refusal(f"it failed: {rehearsal.error}", "correct the steps and rehearse again")
    if rehearsal.declared != declaration_digest(system):
        return Refusal(
            f"the manifest or an image has changed since: it was rehearsed with revision {rehearsal.revision}, "
            f"and revision {system.revision} is another",
            "rehearse again",
        )
    return None


def freeze_refusal(rehearsal: Rehearsal, allowed_s: float | None) -> Refusal | None:
    """Why it would take too long: the predicted freeze is longer than what is allowed, if that is limited."""
    predicted_s = rehearsal.prediction.total_s if rehearsal.prediction is not None else 0.0
    if allowed_s is None or predicted_s <= allowed_s:
        return None
    return Refusal(
        f"it would stand still for {predicted_s:.0f} s, and {allowed_s:.0f} s are allowed",
        "allow more with --max-freeze, or make the steps quicker and rehearse again",
    )


def asleep_refusal(system: ResolvedSystem) -> Refusal:
    """Of a system none of whose machines runs."""
    return Refusal("no machine of the system runs", f"`forkbed start {system.name}` first")
