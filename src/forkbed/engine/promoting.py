"""What can be asked about upgrades: rehearsals, differences, promotions, generations. Options and views.

Standard library only, like `requests`: the command line imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from forkbed.core.operations.records import Operation
from forkbed.core.rehearsals.bundle import StepsBundle as StepsBundle
from forkbed.core.rehearsals.records import FreezePrediction, Rehearsal
from forkbed.engine.requests import Request


@dataclass(frozen=True, slots=True)
class RehearseOptions:
    """`name` is the fork's; "" makes one. `twice`: on two forks of one cut, to find what differs for no reason."""

    name: str = ""
    twice: bool = False


@dataclass(frozen=True, slots=True)
class PromoteOptions:
    """`max_freeze_s`: give up and let the original go on when it stood still for that long.

    `keep_attempt`: an attempt that failed stays as a fork to be studied.
    """

    max_freeze_s: float | None = None
    keep_attempt: bool = True


@dataclass(frozen=True, slots=True)
class PromotionPlan:
    """What a promotion would do, in order, and how long the original would stand still."""

    system: str
    rehearsal: str
    generation: int  # that it would become
    steps: tuple[str, ...]
    prediction: FreezePrediction
    refusal: str  # why it would be refused; "" if it would not
    remedy: str = ""  # what to do about a refusal


@dataclass(frozen=True, slots=True)
class GenerationView:
    """A generation of a system. `state`: live, kept (paused in memory), saved (its memory is on disk), stopped.

    `memory_bytes`: of a kept one what it takes in memory, of a saved one on disk.
    """

    number: int
    state: str
    name: str  # of the system that holds it
    since: float
    expires_at: float | None
    own_bytes: int
    memory_bytes: int
    note: str


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """`base`: compare both with what they have in common, so that conflicts show. `paths` limit what is shown.

    `texts`: differences within text files too. `everything`: also what always differs (logs, caches).
    """

    base: bool = False
    paths: tuple[str, ...] = ()
    texts: bool = False
    everything: bool = False


class PromotionApi(Protocol):
    """Synchronous, thread-safe, raising `OperationalError`; each change answers with an operation at once."""

    def rehearse(
        self, system: str, steps: StepsBundle, options: RehearseOptions, request: Request
    ) -> Operation:
        """The operation's result holds `rehearsal` (its name) and `passed`."""

    def rehearsals(self, system: str) -> Sequence[Rehearsal]:
        """Oldest first."""

    def diff(self, a: str, b: str, options: DiffOptions, request: Request) -> Operation:
        """Compare two related systems, or snapshots of them as SYSTEM@SNAPSHOT.

        The operation's result is a `SystemDifference` as JSON.
        """

    def promotion_plan(self, rehearsal: str, options: PromoteOptions) -> PromotionPlan:
        """What `promote` would do; changes nothing."""

    def promote(self, rehearsal: str, options: PromoteOptions, request: Request) -> Operation:
        """The operation's result holds `generation`, `freeze_s`, `predicted_s`, `kept`: the system that holds the
        generation before. An attempt that failed and is kept is among the operation's `other_systems`."""

    def revert(self, system: str, *, accept_loss: bool, request: Request) -> Operation:
        """UNSAFE, with the list of what would be lost, if the present generation has written since.

        The operation's result holds `generation`, `kept`, and `lost`.
        """

    def generations(self, system: str) -> Sequence[GenerationView]:
        """The live one first, then the newest."""

    def maintenance(self, system: str, *, on: bool, request: Request) -> Operation:
        """Run the manifest's maintenance hooks, one way or the other."""
