"""Which operations may run beside which on one system."""

from __future__ import annotations

import pytest

from forkbed.base.ids import OperationId, SystemId
from forkbed.core.operations.records import Operation, OperationKind, OperationStatus, Requester
from forkbed.core.operations.rules import Admit, Refuse, admit

PERSON = Requester(0, "root", "")


def under_way(kind: OperationKind, requester: Requester = PERSON) -> Operation:
    return Operation(
        id=OperationId("o1"),
        kind=kind,
        system_id=SystemId("s1"),
        subject="demo",
        goal={},
        requester=requester,
        status=OperationStatus.RUNNING,
        created_at=0.0,
    )


@pytest.mark.parametrize("kind", OperationKind)
def test_nothing_stands_in_the_way_of_the_first(kind: OperationKind) -> None:
    assert admit(under_way(kind), []) == Admit()


@pytest.mark.parametrize(
    ("wanted", "active", "admitted"),
    [
        (OperationKind.UP, OperationKind.UP, False),
        (OperationKind.UP, OperationKind.DOWN, False),
        (OperationKind.UP, OperationKind.RECONCILE, True),
        (OperationKind.DOWN, OperationKind.UP, True),
        (OperationKind.DOWN, OperationKind.POWER, True),
        (OperationKind.DOWN, OperationKind.DOWN, False),
        (OperationKind.POWER, OperationKind.UP, False),
        (OperationKind.REVERT, OperationKind.SAVE, False),
        (OperationKind.DISCARD, OperationKind.SAVE, True),
        (OperationKind.SAVE, OperationKind.POWER, False),
        (OperationKind.RECONCILE, OperationKind.UP, False),
        (OperationKind.RECONCILE, OperationKind.RECONCILE, False),
    ],
)
def test_who_gives_way(wanted: OperationKind, active: OperationKind, admitted: bool) -> None:
    answer = admit(under_way(wanted), [under_way(active)])
    assert answer == (Admit((OperationId("o1"),)) if admitted else Refuse(under_way(active)))


def test_a_fold_of_its_own_gives_way_to_a_persons() -> None:
    own = under_way(OperationKind.FOLD, Requester.itself("a volume's chain has grown long"))
    persons = under_way(OperationKind.FOLD)
    assert admit(persons, [own]) == Admit((own.id,))
    assert admit(persons, [persons]) == Refuse(persons)
    assert admit(own, [own]) == Refuse(own)
    assert admit(own, [persons]) == Refuse(persons)
