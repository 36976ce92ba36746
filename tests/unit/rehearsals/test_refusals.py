"""What may not be promoted is refused with a reason, and with what to do about that very reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from forkbed.base.ids import RehearsalId, SnapshotId, SystemId
from forkbed.core.operations.records import Requester
from forkbed.core.rehearsals.records import (
    FreezePrediction,
    Rehearsal,
    RehearsalStatus,
    declaration_digest,
)
from forkbed.core.rehearsals.refusals import Refusal, asleep_refusal, freeze_refusal, promotion_refusal
from forkbed.core.systems.spec import UplinkKind
from tests.unit.systems.test_resolve import LAN, machine, resolve

SYSTEM = resolve(machine("x"))
PASSED = Rehearsal(
    id=RehearsalId("r"),
    system_id=SystemId("s"),
    name="try",
    status=RehearsalStatus.PASSED,
    steps=(),
    declared=declaration_digest(SYSTEM),
    revision=1,
    created_at=0.0,
    requester=Requester(0, "root", ""),
    fork_id=SystemId("f"),
    base_id=SnapshotId("b"),
    prediction=FreezePrediction(1.0, 2.0, 3.0, 4.0, 0.0),
)


def told(refusal: Refusal | None) -> tuple[str, str]:
    assert refusal is not None
    error = refusal.error("try")
    return str(error), error.remedy


@pytest.mark.parametrize(
    ("changes", "reason", "remedy"),
    [
        ({"status": RehearsalStatus.RUNNING}, "has not ended", "wait"),
        ({"status": RehearsalStatus.FAILED, "error": "a check"}, "it failed: a check", "correct the steps"),
        ({"declared": "another"}, "has changed since", "rehearse again"),
    ],
)
def test_what_is_no_good_rehearsal(changes: dict[str, object], reason: str, remedy: str) -> None:
    refusal = promotion_refusal(replace(PASSED, **changes), SYSTEM)  # type: ignore[arg-type]
    error, what_to_do = told(refusal)
    assert error.startswith("rehearsal try: may not be promoted") and reason in error
    assert what_to_do.startswith(remedy)


@pytest.mark.parametrize("uplink", [UplinkKind.NONE, UplinkKind.NAT, UplinkKind.BRIDGE])
def test_every_way_out_can_change_hands(uplink: UplinkKind) -> None:
    bridge = "br0" if uplink is UplinkKind.BRIDGE else ""
    system = resolve(machine("x"), network=replace(LAN, uplink=uplink, bridge=bridge))
    assert promotion_refusal(replace(PASSED, declared=declaration_digest(system)), system) is None


def test_a_freeze_that_is_too_long_is_allowed_or_shortened() -> None:
    assert freeze_refusal(PASSED, None) is None
    assert freeze_refusal(PASSED, 10.0) is None
    error, remedy = told(freeze_refusal(PASSED, 9.0))
    assert "for 10 s, and 9 s are allowed" in error
    assert "--max-freeze" in remedy


def test_a_system_that_does_not_run_is_started() -> None:
    assert told(asleep_refusal(SYSTEM))[1] == "`forkbed start demo` first"
