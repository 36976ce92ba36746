"""Work off operations of upgrades: rehearse, promote, revert, save, maintain, compare."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from forkbed.core.operations.records import Operation, OperationKind
from forkbed.engine.diffing import Diffing
from forkbed.engine.forking import Forking
from forkbed.engine.life import Life
from forkbed.engine.maintenance import maintain
from forkbed.engine.momentary import sweep_momentary
from forkbed.engine.promotion import Promotion
from forkbed.engine.rehearsing import Rehearsing
from forkbed.engine.reversion import Reversion
from forkbed.engine.saving import Saving
from forkbed.engine.surroundings import Surroundings
from forkbed.engine.upgrade_goals import MAINTENANCE_GOAL

UPGRADING = (
    OperationKind.REHEARSE,
    OperationKind.PROMOTE,
    OperationKind.REVERT,
    OperationKind.SAVE,
    OperationKind.MAINTENANCE,
    OperationKind.DIFF,
)
Result = dict[str, object]


class UpgradeRunner:
    """Runs one operation to its end."""

    def __init__(self, around: Surroundings, operation: Operation, cancelled: threading.Event) -> None:
        self._operation = operation
        self._life = Life(around, operation, cancelled)
        self._works: Mapping[OperationKind, Callable[[], Result]] = {
            OperationKind.REHEARSE: lambda: Rehearsing(self._life).run(),
            OperationKind.PROMOTE: lambda: Promotion(self._life).run(),
            OperationKind.REVERT: lambda: Reversion(self._life).run(),
            OperationKind.SAVE: lambda: Saving(self._life).run(),
            OperationKind.MAINTENANCE: self._maintain,
            OperationKind.DIFF: lambda: Diffing(self._life).run(),
        }

    def run(self) -> None:
        """Return when the operation has ended and that is recorded, or when the controller is stopping."""
        self._life.work_off(self._work)

    def _work(self) -> Result:
        sweep_momentary(self._life)
        return self._works[self._operation.kind]()

    def _maintain(self) -> Result:
        assert self._operation.system_id is not None
        goal = MAINTENANCE_GOAL.validate_python(self._operation.goal)
        record = Forking(self._life).record(self._operation.system_id)
        maintain(self._life, record, on=goal.on)
        return {"maintenance": goal.on}
