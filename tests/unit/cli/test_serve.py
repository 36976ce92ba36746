"""`serve`, detached and not, with the simulated host: no hypervisor and no directory of the system is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkbed.base.errors import Kind
from tests.unit.cli.conftest import command_line


class Installation:
    """Commands with directories of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "run" / "api.sock"
        self.pid_file = directory / "run" / "api.pid"
        self.environment = {
            **os.environ,
            "FORKBED_STATE_DIR": str(directory / "state"),
            "FORKBED_RUNTIME_DIR": str(directory / "run"),
            "FORKBED_CACHE_DIR": str(directory / "cache"),
            "FORKBED_SOCKET": str(self.socket),
        }

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command_line(*words), env=self.environment, capture_output=True, text=True, timeout=120
        )

    def pid(self) -> int:
        return int(self.pid_file.read_text())

    def end(self) -> None:
        if not self.pid_file.exists():
            return
        pid = self.pid()
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while self.pid_file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path)
    yield made
    made.end()


def test_detached_it_answers_and_ends_cleanly(installation: Installation) -> None:
    started = installation.run("serve", "--detach", "--simulate", "--json")
    assert started.returncode == 0, started.stderr
    assert json.loads(started.stdout)["about"]["simulated"] is True
    pid = installation.pid()
    assert os.getsid(pid) == pid
    assert installation.run("list", "--json").stdout == "[]\n"
    again = installation.run("serve", "--detach", "--simulate")
    assert again.returncode == 0
    assert "runs already" in again.stderr
    refused = installation.run("serve", "--simulate")
    assert refused.returncode == Kind.CONFLICT.exit_status
    assert f"pid {pid}" in refused.stderr
    installation.end()
    assert sorted(path.name for path in (installation.directory / "run").iterdir()) == ["api.log"]
    gone = installation.run("list")
    assert gone.returncode == Kind.UNREACHABLE.exit_status


def test_a_killed_servers_leftovers_are_no_obstacle(installation: Installation) -> None:
    installation.run("serve", "--detach", "--simulate")
    os.kill(installation.pid(), signal.SIGKILL)
    assert installation.socket.exists()
    assert installation.run("serve", "--detach", "--simulate").returncode == 0
    assert installation.run("list").returncode == 0


def test_one_that_cannot_start_says_why(installation: Installation) -> None:
    (installation.directory / "file").touch()
    installation.environment["FORKBED_SOCKET"] = str(installation.directory / "file" / "api.sock")
    answer = installation.run("serve", "--simulate")
    assert answer.returncode == Kind.FAULT.exit_status
    assert "--socket" in answer.stderr
