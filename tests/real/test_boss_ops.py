"""The example as its readers use it: a testbed control plane of two full Debian machines."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forkbed import lab as labs
from tests.real.installation import Installation

EXAMPLE = Path(__file__).parents[2] / "examples" / "boss-ops"
SERVICE = "http://127.0.0.1:8080/experiments"


@pytest.fixture(scope="module")
def boss_ops(lab_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with labs.temporary(lab_dir, "test-boss-ops-") as lab:
        installation = Installation(lab, tmp_path_factory.mktemp("boss-ops"))
        installation.serve()
        for name in ("ops", "boss"):
            installation.forkbed("image", "build", EXAMPLE / f"{name}.yaml", timeout_s=900)
        installation.forkbed("up", EXAMPLE / "system.yaml", timeout_s=600)
        yield installation


def ask(path: str = "", body: object = None) -> Any:
    """The service's answer, through the published port; the lab's relay needs a moment at first."""
    data = json.dumps(body).encode() if body is not None else None
    for _ in range(50):
        try:
            with urllib.request.urlopen(SERVICE + path, data=data, timeout=20) as answer:
                return json.loads(answer.read())
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no answer from {SERVICE}{path}")


@pytest.mark.timeout(1500)
def test_the_control_plane_works(boss_ops: Installation) -> None:
    assert boss_ops.show("boss-ops")["summary"]["state"] == "up"
    before = ask("/count")["count"]
    for number in range(3):
        ask("", {"name": f"e{number}", "owner": "ada"})
    assert ask("/count")["count"] == before + 3
    assert {"e0", "e1", "e2"} <= {experiment["name"] for experiment in ask()}
    on_ops = boss_ops.exec("boss-ops/ops", "sh", "-c", "cat /proj/experiments/*").out
    assert on_ops.count("ada") >= 3, "boss wrote each experiment to the NFS export of ops"
    assert "active" in boss_ops.exec("boss-ops/boss", "systemctl", "is-active", "postgresql").out
    assert boss_ops.exec("boss-ops/boss", "getent", "hosts", "ops").out.startswith("10.20.0.20")


@pytest.mark.timeout(900)
def test_data_survives_a_restart_in_order(boss_ops: Installation) -> None:
    ask("", {"name": "kept", "owner": "bob"})
    count = ask("/count")["count"]
    boss_ops.forkbed("restart", "boss-ops", timeout_s=600)
    assert ask("/count")["count"] == count
    keys = [event["attributes"].get("key") for event in boss_ops.forkbed("events", "--json").json()]
    last = {key: position for position, key in enumerate(keys)}
    assert last["stop boss"] < last["stop ops"] < last["ready ops"] < last["start boss"]
