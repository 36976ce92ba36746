"""The client's part for upgrades.

Its types are imported by the methods that need them: they are many, and most commands are about something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from forkbed.api.client.calls import Calls, segment
from forkbed.api.codec import decode

if TYPE_CHECKING:
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
        options: RehearseOptions | None = None,
        *,
        if_match: int | None = None,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Run steps on a fork of a system. The operation's result is a `RehearseResult`.

        Raises INVALID with every error of the steps in `details`.
        """
        from forkbed.api.upgrades import rehearse_body
        from forkbed.engine.promoting import RehearseOptions

        path, body = f"{_system(system)}/rehearsals", rehearse_body(steps, options or RehearseOptions())
        return self._start(path, body, if_match=if_match, idempotency_key=idempotency_key)

    def rehearsals(self, system: str) -> Sequence[Rehearsal]:
        """The oldest first."""
        from forkbed.core.rehearsals.records import Rehearsal

        return self._list(Rehearsal, f"{_system(system)}/rehearsals")

    def diff(
        self,
        left: str,
        right: str,
        options: DiffOptions | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Compare two related systems. The operation's result is a `SystemDifference`."""
        from forkbed.api.upgrades import diff_body
        from forkbed.engine.promoting import DiffOptions

        body = diff_body(left, right, options or DiffOptions())
        return self._start("/diffs", body, idempotency_key=idempotency_key)

    def promotion_plan(self, rehearsal: str, options: PromoteOptions | None = None) -> PromotionPlan:
        """What `promote` would do, and why it would be refused."""
        from forkbed.engine.promoting import PromoteOptions, PromotionPlan

        path = f"{_rehearsal(rehearsal)}/plan"
        return decode(PromotionPlan, self._write("POST", path, options or PromoteOptions()))

    def promote(
        self,
        rehearsal: str,
        options: PromoteOptions | None = None,
        *,
        if_match: int | None = None,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Let what was rehearsed take over. The operation's result is a `PromoteResult`."""
        from forkbed.engine.promoting import PromoteOptions

        path, body = f"{_rehearsal(rehearsal)}/promote", options or PromoteOptions()
        return self._start(path, body, if_match=if_match, idempotency_key=idempotency_key)

    def revert(
        self,
        system: str,
        *,
        accept_loss: bool = False,
        if_match: int | None = None,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Go back to the kept generation. UNSAFE, with what would be lost, if the present one has written since."""
        from forkbed.api.upgrades import RevertBody

        path, body = f"{_system(system)}/revert", RevertBody(accept_loss)
        return self._start(path, body, if_match=if_match, idempotency_key=idempotency_key)

    def generations(self, system: str) -> Sequence[GenerationView]:
        """The live one first, then the newest."""
        from forkbed.engine.promoting import GenerationView

        return self._list(GenerationView, f"{_system(system)}/generations")

    def maintenance(
        self, system: str, *, on: bool, if_match: int | None = None, idempotency_key: str | None = None
    ) -> Operation:
        """Keep a system's users off, or let them back."""
        from forkbed.api.upgrades import MaintenanceBody

        path, body = f"{_system(system)}/maintenance", MaintenanceBody(on)
        return self._start(path, body, if_match=if_match, idempotency_key=idempotency_key)


def _system(name: str) -> str:
    return f"/systems/{segment(name)}"


def _rehearsal(name: str) -> str:
    return f"/rehearsals/{segment(name)}"
