"""Which operations may run beside which on one system. Pure.

One operation at a time changes a system. A person's wish goes before what Forkbed does by itself, and taking
a system down goes before bringing it up: these cancel what is under way, wait for its end and then begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forkbed.base.ids import OperationId
from forkbed.core.operations.records import Operation, OperationKind

_YIELDING = frozenset({OperationKind.RECONCILE, OperationKind.FOLD})
_TAKING_DOWN = frozenset({OperationKind.DOWN, OperationKind.DISCARD})


@dataclass(frozen=True, slots=True)
class Admit:
    """It may begin as soon as the operations in `cancel` have ended; they are to be cancelled."""

    cancel: tuple[OperationId, ...] = ()


@dataclass(frozen=True, slots=True)
class Refuse:
    """It may not begin while `because` is under way."""

    because: Operation


def admit(wanted: Operation, active: Sequence[Operation]) -> Admit | Refuse:
    """Decide about a new operation beside the active ones of the same systems."""
    for operation in active:
        taken_down = wanted.kind in _TAKING_DOWN and operation.kind not in _TAKING_DOWN
        if not _yields(operation, wanted) and not taken_down:
            return Refuse(operation)
    return Admit(tuple(operation.id for operation in active))


def _yields(operation: Operation, wanted: Operation) -> bool:
    if wanted.kind is operation.kind is OperationKind.FOLD:  # a person has chains folded further
        return wanted.requester.is_person and not operation.requester.is_person
    return operation.kind in _YIELDING and wanted.kind not in _YIELDING
