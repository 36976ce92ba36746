"""A system on a bridge of the host is promoted and reverted like any other: only the way out changes hands."""

from __future__ import annotations

from pathlib import Path

import pytest

from forkbed.core.systems.spec import UplinkKind
from forkbed.core.systems.view import Power
from forkbed.engine.promoting import PromoteOptions
from tests.simulated.installation import Installation, succeeded
from tests.simulated.test_branches import machine, write
from tests.simulated.test_upgrades import UPGRADED, on_disk, promote, rehearse, revert

NAT = UPGRADED.replace('    publish: ["8080:80"]\n', "")
BRIDGED = NAT.replace("uplink: nat", "uplink: bridge:br0")


@pytest.fixture
def pair(tmp_path: Path) -> Installation:
    installation = Installation(tmp_path)
    assert succeeded(installation.up(BRIDGED))
    write(installation, "pair", "ops", "before")
    return installation


def uplinks(i: Installation) -> dict[str, tuple[UplinkKind, str]]:
    return {
        record.name: (network.spec.uplink, network.spec.bridge)
        for record in i.store.systems()
        for network in record.resolved.networks
    }


def networks_made(i: Installation) -> list[str]:
    """By the last operation, in order."""
    journal = i.store.journal(i.store.operations(limit=1)[0].id)
    return [e.key for e in journal if e.key.startswith("network ")]


def test_promoted_and_reverted(pair: Installation) -> None:
    rehearse(pair)
    assert uplinks(pair)["try"] == (UplinkKind.RECORDED, "br0")
    assert pair.controller.promotion_plan("try", PromoteOptions()).refusal == ""
    boot = machine(pair, "pair", "ops").boot_id
    assert succeeded(promote(pair))
    way_out, closed = (UplinkKind.BRIDGE, "br0"), (UplinkKind.NONE, "")
    assert uplinks(pair) == {"pair": way_out, "pair@1": closed, "try": (UplinkKind.RECORDED, "br0")}
    assert networks_made(pair)[-2:] == ["network pair@1/control", "network control"], (
        "it is lost before it is had"
    )
    assert on_disk(pair, "pair", "ops") == {"count": "before", "schema": "two"}
    assert not any(m.restart_pending for m in pair.controller.system("pair").machines)
    assert succeeded(revert(pair, accept_loss=True))
    assert uplinks(pair)["pair"] == way_out and uplinks(pair)["pair@2"] == closed
    assert machine(pair, "pair", "ops").boot_id == boot, "it never stopped"
    assert machine(pair, "pair", "ops").power is Power.RUNNING


def test_the_way_out_is_changed_while_machines_run(pair: Installation) -> None:
    boot = machine(pair, "pair", "ops").boot_id
    assert succeeded(pair.up(NAT))
    assert uplinks(pair) == {"pair": (UplinkKind.NAT, "")}
    assert machine(pair, "pair", "ops").boot_id == boot
    assert not any(m.restart_pending for m in pair.controller.system("pair").machines)
