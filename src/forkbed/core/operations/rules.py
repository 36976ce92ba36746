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


def admit(kind: OperationKind, active: Sequence[Operation]) -> Admit | Refuse:
    """Decide about a new operation of that kind beside the active ones of the same systems."""
    for operation in active:
        yields = operation.kind in _YIELDING and kind not in _YIELDING
        # a person has chains folded further than Forkbed, which begins no fold beside another operation
        yields |= kind is OperationKind.FOLD and _is_own_fold(operation)
        taken_down = kind in _TAKING_DOWN and operation.kind not in _TAKING_DOWN
        if not yields and not taken_down:
            return Refuse(operation)
    return Admit(tuple(operation.id for operation in active))


def _is_own_fold(operation: Operation) -> bool:
    return operation.kind is OperationKind.FOLD and not operation.requester.is_person
