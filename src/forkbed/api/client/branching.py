"""The client's part for snapshots and forks. As in `upgrades`, methods import the types that they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from forkbed.api.client.calls import Calls, segment
from forkbed.api.client.following import follow
from forkbed.api.client.transport import PATIENCE_S
from forkbed.api.codec import decode
from forkbed.api.contract import PREFIX
from forkbed.engine.branch_options import ForkOptions, SnapshotOptions

if TYPE_CHECKING:
    from forkbed.core.operations.records import Operation
    from forkbed.engine.branching import IntentView, SnapshotSummary, TreeNode


class BranchingCalls(Calls):
    """Keep cuts, go back to them, fork, and see what forks tried to do."""

    def snapshot(
        self,
        system: str,
        options: SnapshotOptions = SnapshotOptions(),  # noqa: B008
        *,
        if_match: int | None = None,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Keep one instant of all machines of a system. The operation's result holds `snapshot`, its name."""
        path = f"{_path(system)}/snapshots"
        return self._start(path, options, if_match=if_match, idempotency_key=idempotency_key)

    def snapshots(self, system: str) -> Sequence[SnapshotSummary]:
        """The oldest first, automatic ones too."""
        from forkbed.engine.branching import SnapshotSummary

        return self._list(SnapshotSummary, f"{_path(system)}/snapshots")

    def snapshot_delete(
        self, system: str, name: str, *, if_match: int | None = None, idempotency_key: str | None = None
    ) -> Operation:
        """Remove a snapshot."""
        path = f"{_path(system)}/snapshots/{segment(name)}"
        return self._start(path, method="DELETE", if_match=if_match, idempotency_key=idempotency_key)

    def rollback(
        self, system: str, snapshot: str, *, if_match: int | None = None, idempotency_key: str | None = None
    ) -> Operation:
        """Go back to a snapshot. The operation's result holds `kept`: the snapshot of what was replaced."""
        from forkbed.api.bodies import RollbackBody

        path, body = f"{_path(system)}/rollback", RollbackBody(snapshot)
        return self._start(path, body, if_match=if_match, idempotency_key=idempotency_key)

    def fork(
        self,
        system: str,
        options: ForkOptions,
        *,
        if_match: int | None = None,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Make isolated copies of a system. The operation's result is a `ForkResult`."""
        path = f"{_path(system)}/forks"
        return self._start(path, options, if_match=if_match, idempotency_key=idempotency_key)

    def discard(
        self, fork: str, *, if_match: int | None = None, idempotency_key: str | None = None
    ) -> Operation:
        """Remove a fork with its data. The operation's result holds `kept_for`: systems that stand on it."""
        path = f"{_path(fork)}/discard"
        return self._start(path, if_match=if_match, idempotency_key=idempotency_key)

    def fold(
        self, system: str, *, if_match: int | None = None, idempotency_key: str | None = None
    ) -> Operation:
        """Shorten the chains of layers of a system's volumes."""
        return self._start(f"{_path(system)}/fold", if_match=if_match, idempotency_key=idempotency_key)

    def tree(self, system: str | None = None) -> Sequence[TreeNode]:
        """All roots, or the one tree that the system belongs to."""
        from forkbed.engine.branching import TreeNode

        return self._list(TreeNode, "/tree", system=system)

    def intents(self, fork: str, *, after: int = 0, limit: int = 1000) -> Sequence[IntentView]:
        """What the machines of a fork tried to do to the world, oldest first."""
        from forkbed.engine.branching import IntentView

        return self._list(IntentView, f"{_path(fork)}/intents", after=after, limit=limit)

    def follow_intents(self, fork: str, *, after: int = 0) -> Iterator[IntentView]:
        """Intents after that cursor and those to come; raises NOT_FOUND once the fork is gone."""
        from forkbed.engine.branching import IntentView

        path = f"{PREFIX}{_path(fork)}/intents"
        stream = follow(self._transport, path, params={}, after=after, patience_s=PATIENCE_S)
        return (decode(IntentView, data) for data in stream)


def _path(system: str) -> str:
    return f"/systems/{segment(system)}"
