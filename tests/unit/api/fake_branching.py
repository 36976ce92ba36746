"""The part of the controller in memory that answers about snapshots and forks."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from forkbed.api.codec import encode
from forkbed.base.errors import Kind, OperationalError
from forkbed.core.networks.intents import Intent, IntentKind
from forkbed.core.operations.records import Operation, OperationKind
from forkbed.engine.branch_options import ForkOptions, SnapshotOptions
from forkbed.engine.branching import IntentView, MachineCutSummary, SnapshotSummary, TreeKind, TreeNode
from forkbed.engine.requests import Request, SystemSummary

CUT_AT = 1_795_269_731.0  # 14:02:11 UTC
BOSS = MachineCutSummary("boss", "running", "background", CUT_AT, 0.045, 270 * 1024**2, False, "")
STOPPED = MachineCutSummary("ops", "off", "none", None, None, 0, False, "")
SNAPSHOT = SnapshotSummary(
    name="before-upgrade",
    id="snap1",
    system="boss-ops",
    kind="live",
    status="complete",
    revision=3,
    created_at=CUT_AT - 1,
    cut_at=CUT_AT,
    skew_s=0.0012,
    message="as it was\x1b[2J",
    expires_at=CUT_AT + 7200,
    automatic=False,
    own_bytes=300 * 1024**2,
    memory_bytes=270 * 1024**2,
    machines=(BOSS, STOPPED),
    forks=(),
)


class FakeBranching(ABC):
    """Implements `BranchingApi` but for what the whole controller knows: its systems and operations.

    `roots` and `tried` are what `tree` and `intents` answer; tests fill them. Forks that are asked for appear
    in `fork_summaries`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fork_summaries: dict[str, SystemSummary] = {}
        self.kept: list[SnapshotSummary] = [SNAPSHOT]
        self.kept_for: tuple[str, ...] = ()
        self.roots: list[TreeNode] = [
            TreeNode(TreeKind.SYSTEM, "boss-ops", 900.0, "up", 2 * 1024**3, ""),
        ]
        self.tried: list[IntentView] = []
        self._changed = threading.Condition()

    def make_fork(self, name: str, of: SystemSummary) -> None:
        """Let there be a fork."""
        self.fork_summaries[name] = replace(
            of, name=name, id=f"sys-{name}", fork_of=of.name, cut_at=CUT_AT, snapshot="", expires_at=None
        )

    def attempt(self, kind: IntentKind, *, host: str = "", port: int = 80, **details: str) -> None:
        """Let a machine of a fork try something."""
        with self._changed:
            number = len(self.tried) + 1
            intent = Intent(
                number, CUT_AT + number, kind, "10.0.0.2", "203.0.113.7", port, host, details, "hi"
            )
            self.tried.append(IntentView(number, "control", "boss", intent))
            self._changed.notify_all()

    def snapshot(self, system: str, options: SnapshotOptions, request: Request) -> Operation:
        self._system(system)
        self._note("snapshot", options)
        name = options.name or "20261121-140211"
        self.kept.append(replace(SNAPSHOT, name=name, message=options.message))
        return self._operation(OperationKind.SNAPSHOT, system, request, {"snapshot": name})

    def snapshots(self, system: str) -> Sequence[SnapshotSummary]:
        self._system(system)
        return self.kept

    def snapshot_delete(self, system: str, name: str, request: Request) -> Operation:
        self._snapshot(system, name)
        self._note("snapshot_delete", name)
        return self._operation(OperationKind.SNAPSHOT_DELETE, system, request)

    def rollback(self, system: str, snapshot: str, request: Request) -> Operation:
        self._snapshot(system, snapshot)
        self._note("rollback", snapshot)
        kept = "before-rollback-1"
        return self._operation(OperationKind.ROLLBACK, system, request, {"kept": kept})

    def fork(self, system: str, options: ForkOptions, request: Request) -> Operation:
        self._system(system)
        self._note("fork", options)
        names = [options.name]
        if options.count > 1:
            names = [f"{options.name}-{number}" for number in range(1, min(options.count, 9) + 1)]
        for name in names:
            self.make_fork(name, self._summary())
        result = {
            "forks": names,
            "cut_at": CUT_AT,
            "skew_s": 0.0012,
            "machines": [encode(BOSS), encode(STOPPED)],
        }
        return self._operation(OperationKind.FORK, system, request, result)

    def discard(self, fork: str, request: Request) -> Operation:
        self._fork(fork)
        self._note("discard", fork)
        del self.fork_summaries[fork]
        result: dict[str, object] = {"kept_for": list(self.kept_for)}
        return self._operation(OperationKind.DISCARD, fork, request, result)

    def tree(self, system: str | None) -> Sequence[TreeNode]:
        if system is not None:
            self._system(system)
        return self.roots

    def intents(self, fork: str, *, after: int, limit: int) -> Sequence[IntentView]:
        self._fork(fork)
        return [view for view in self.tried if view.cursor > after][:limit]

    def wait_intents(self, fork: str, after: int, timeout_s: float) -> Sequence[IntentView]:
        with self._changed:
            self._changed.wait_for(lambda: self.intents(fork, after=after, limit=1), timeout_s)
            return self.intents(fork, after=after, limit=1000)

    def fold(self, system: str, request: Request) -> Operation:
        self._system(system)
        self._note("fold", system)
        return self._operation(OperationKind.FOLD, system, request)

    def _fork(self, name: str) -> None:
        self._system(name)
        if name not in self.fork_summaries:
            raise OperationalError(Kind.CONFLICT, f"system {name}", "is no fork")

    def _snapshot(self, system: str, name: str) -> None:
        self._system(system)
        if all(name != snapshot.name for snapshot in self.kept):
            raise OperationalError(
                Kind.NOT_FOUND, f"snapshot {name}", "there is none", f"`forkbed snapshots {system}`"
            )

    @abstractmethod
    def _summary(self) -> SystemSummary: ...

    @abstractmethod
    def _system(self, name: str) -> None: ...

    @abstractmethod
    def _note(self, call: str, what: object) -> None: ...

    @abstractmethod
    def _operation(
        self,
        kind: OperationKind,
        subject: str,
        request: Request,
        result: dict[str, object] | None = None,
    ) -> Operation: ...
