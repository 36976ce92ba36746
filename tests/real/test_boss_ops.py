"""The example as its readers use it: a testbed control plane of two full Debian machines."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from forkbed import lab as labs
from tests.real.installation import Installation

EXAMPLE = Path(__file__).parents[2] / "examples" / "boss-ops"
SERVICE = "http://127.0.0.1:8080/experiments"
INSIDE = "http://localhost/experiments"


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


@contextmanager
def writing_client(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The example's client, writing until it is ended."""
    client = subprocess.Popen([sys.executable, EXAMPLE / "client.py", SERVICE, log])
    try:
        yield client
    finally:
        client.terminate()
        client.wait(60)


def answers(log: Path) -> Sequence[dict[str, Any]]:
    """What the client has been told so far."""
    text = log.read_text() if log.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def count_in(boss_ops: Installation, system: str) -> int:
    """Experiments as the system's own machine is told."""
    done = boss_ops.exec(f"{system}/boss", "curl", "--silent", "--fail", f"{INSIDE}/count")
    return int(done.json()["count"])


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


@pytest.mark.timeout(900)
def test_a_fork_holds_the_count_of_the_cut(boss_ops: Installation, tmp_path: Path) -> None:
    log = tmp_path / "client.log"
    before = ask("/count")["count"]
    with writing_client(log) as client:
        boss_ops.await_that(lambda: len(answers(log)) >= 5, "the client writes")
        boss_ops.forkbed("fork", "boss-ops", "rehearsal", timeout_s=300)
        asked = boss_ops.forkbed("operations", "list", "--json").json()
        newest = next(operation["id"] for operation in asked if operation["kind"] == "fork")
        result = boss_ops.forkbed("operations", "show", newest, "--json").json()["operation"]["result"]
        boss = next(machine for machine in result["machines"] if machine["name"] == "boss")
        held = count_in(boss_ops, "rehearsal")
        since = len(answers(log))
        boss_ops.await_that(lambda: len(answers(log)) > since, "the client goes on writing")
        assert count_in(boss_ops, "rehearsal") == held, "writes go on in the original only"
    assert client.returncode == 0
    told = answers(log)
    assert [answer for answer in told if "problem" in answer] == []
    frozen_at, resumed_at = boss["frozen_at"], boss["frozen_at"] + boss["frozen_s"]
    accepted = sum(answer["answered"] < frozen_at for answer in told)
    begun = sum(answer["asked"] < resumed_at for answer in told)
    assert 5 <= accepted <= held - before <= begun < len(told)
    assert ask("/count")["count"] == before + len(told)

    rows = boss_ops.exec("rehearsal/boss", "curl", "--silent", "--fail", INSIDE).json()
    files = boss_ops.exec("rehearsal/ops", "ls", "/proj/experiments").out.split()
    assert {f"{row['id']}.json" for row in rows} <= set(files), (
        "each row's file was there at the same instant"
    )
    experiment = '{"name": "only-in-the-fork"}'
    boss_ops.exec("rehearsal/boss", "curl", "--silent", "--fail", "--data", experiment, INSIDE)
    assert count_in(boss_ops, "rehearsal") == held + 1, (
        "it reaches the database and the file server of the fork"
    )
    assert "only-in-the-fork" not in {row["name"] for row in ask()}

    boss_ops.forkbed("discard", "rehearsal")
    boss_ops.forkbed("show", "rehearsal", status=3)
    assert ask("/count")["count"] == before + len(told)


def in_database(boss_ops: Installation, statement: str) -> None:
    boss_ops.exec("boss-ops/boss", "runuser", "-u", "postgres", "--", "psql", "-qc", statement, "experiments")


@pytest.mark.full
@pytest.mark.timeout(1500)
def test_an_upgrade_loses_nothing_that_was_acknowledged(boss_ops: Installation, tmp_path: Path) -> None:
    log = tmp_path / "client.log"
    with writing_client(log):
        boss_ops.await_that(lambda: len(answers(log)) >= 3, "the client writes")
        steps = EXAMPLE / "upgrade.yaml"
        boss_ops.forkbed("rehearse", "boss-ops", "--steps", steps, "--as", "projects", timeout_s=600)
        rows = boss_ops.exec("projects/boss", "curl", "--silent", "--fail", INSIDE).json()
        assert {row["project"] for row in rows} == {"main"}

        in_database(boss_ops, "INSERT INTO experiments (id, name, owner) VALUES (0, 'orphan', 'nobody')")
        failed = boss_ops.forkbed("promote", "projects", "--discard-attempt", status=None, timeout_s=600)
        in_database(boss_ops, "DELETE FROM experiments WHERE id = 0")
        assert failed.status != 0
        assert "without a file" in failed.err
        since = len(answers(log))
        boss_ops.await_that(lambda: len(answers(log)) > since, "the original answers again")
        assert all("project" not in row for row in ask())

        boss_ops.forkbed("promote", "projects", timeout_s=600)
        since = len(answers(log))
        boss_ops.await_that(lambda: len(answers(log)) > since, "the client goes on with the new generation")
    acknowledged = {answer["id"] for answer in answers(log) if "id" in answer}
    rows = ask()
    assert len(acknowledged) > 6
    assert acknowledged <= {row["id"] for row in rows if row["project"] == "main"}
    files = boss_ops.exec("boss-ops/ops", "ls", "/proj/experiments/main").out.split()
    assert {f"{number}.json" for number in acknowledged} <= set(files)
    boss_ops.forkbed("discard", "projects")
