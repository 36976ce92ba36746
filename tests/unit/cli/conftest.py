from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from forkbed.cli.main import main
from tests.unit.api.conftest import controller, guest_directory, socket

__all__ = ["controller", "guest_directory", "socket"]


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str


Cli = Callable[..., Answer]
ProcessCli = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def cli(socket: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process, against the server on `socket`."""
    monkeypatch.setenv("FORKBED_SOCKET", str(socket))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TZ", "UTC")

    def run(*words: str) -> Answer:
        capsys.readouterr()
        status = main(words)
        captured = capsys.readouterr()
        return Answer(status, captured.out, captured.err)

    return run


def command_line(*words: str) -> list[str]:
    return [sys.executable, "-m", "forkbed.cli.main", *words]


def environment_of(socket: Path) -> dict[str, str]:
    return {**os.environ, "FORKBED_SOCKET": str(socket)}


@pytest.fixture
def process_cli(socket: Path) -> ProcessCli:
    """Run a command as a process of its own, with real standard streams."""

    def run(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command_line(*words), input=stdin, capture_output=True, env=environment_of(socket), timeout=60
        )

    return run
