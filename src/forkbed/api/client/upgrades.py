"""The client's part for upgrades."""

from __future__ import annotations

from collections.abc import Sequence

from forkbed.api.client.calls import Calls, segment
from forkbed.api.codec import decode
from forkbed.api.upgrades import (
    MaintenanceBody,
    RevertBody,
    diff_body,
    rehearse_body,
)
from forkbed.core.operations.records import Operation
from forkbed.core.rehearsals.bundle import StepsBundle
from forkbed.core.rehearsals.records import Rehearsal
from forkbed.engine.promoting import (
    DiffOptions,
    GenerationView,
    PromoteOptions,
    PromotionPlan,
    RehearseOptions,
)


class UpgradeCalls(Calls):
    """Try an upgrade on a fork, see what it changed, let it take over, and go back."""

    def rehearse(
        self,
        system: str,
        steps: StepsBundle,
        options: RehearseOptions = RehearseOptions(),  # noqa: B008
        *,
        if_match: int | None = None,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Run steps on a fork of a system. The operation's result is a `RehearseResult`.

        Raises INVALID with every error of the steps in `details`.
        """
        path, body = f"{_system(system)}/rehearsals", rehearse_body(steps, options)
        return self._start(path, body, if_match=if_match, idempotency_key=idempotency_key)

    def rehearsals(self, system: str) -> Sequence[Rehearsal]:
        """The oldest first."""
        return self._list(Rehearsal, f"{_system(system)}/rehearsals")

    def diff(
        self,
        left: str,
        right: str,
        options: DiffOptions = DiffOptions(),  # noqa: B008
        *,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Compare two related systems. The operation's result is a `SystemDifference`."""
        return self._start("/diffs", diff_body(left, right, options), idempotency_key=idempotency_key)

    def promotion_plan(
        self,
        rehearsal: str,
        options: PromoteOptions = PromoteOptions(),  # noqa: B008
    ) -> PromotionPlan:
        """What `promote` would do, and why it would be refused."""
        return decode(PromotionPlan, self._write("POST", f"{_rehearsal(rehearsal)}/plan", options))

    def promote(
        self,
        rehearsal: str,
        options: PromoteOptions = PromoteOptions(),  # noqa: B008
        *,
        if_match: int | None = None,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Let what was rehearsed take over. The operation's result is a `PromoteResult`."""
        path = f"{_rehearsal(rehearsal)}/promote"
        return self._start(path, options, if_match=if_match, idempotency_key=idempotency_key)

    def revert(
        self,
        system: str,
        *,
        accept_loss: bool = False,
        if_match: int | None = None,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Go back to the kept generation. UNSAFE, with what would be lost, if the present one has written since."""
        path, body = f"{_system(system)}/revert", RevertBody(accept_loss)
        return self._start(path, body, if_match=if_match, idempotency_key=idempotency_key)

    def generations(self, system: str) -> Sequence[GenerationView]:
        """The live one first, then the newest."""
        return self._list(GenerationView, f"{_system(system)}/generations")

    def maintenance(
        self, system: str, *, on: bool, if_match: int | None = None, idempotency_key: str | None = None
    ) -> Operation:
        """Keep a system's users off, or let them back."""
        path, body = f"{_system(system)}/maintenance", MaintenanceBody(on)
        return self._start(path, body, if_match=if_match, idempotency_key=idempotency_key)


def _system(name: str) -> str:
    return f"/systems/{segment(name)}"


def _rehearsal(name: str) -> str:
    return f"/rehearsals/{segment(name)}"
