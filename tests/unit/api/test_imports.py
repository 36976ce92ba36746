"""Starting a command is felt: the client must load none of the server's libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "fastapi",
    "starlette",
    "uvicorn",
    "sqlalchemy",
    "pydantic",
    "libvirt",
    "structlog",
    "yaml",
    "ruamel",
    "rich",
)
_PROBE = "import sys; import {module}; print(*(name for name in {heavy!r} if name in sys.modules))"


@pytest.mark.parametrize(
    "module",
    [
        "forkbed.api.client",
        "forkbed.api.client.streams",
        "forkbed.api.bodies",
        "forkbed.cli.main",
        "forkbed.cli.waiting",
        "forkbed.cli.commands.forks",
        "forkbed.cli.commands.systems",
    ],
)
def test_it_loads_nothing_heavy(module: str) -> None:
    probe = _PROBE.format(module=module, heavy=HEAVY)
    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []


_ASK = """
import sys
from forkbed.api.client import transport
from forkbed.cli.main import main

def ask(*_, **__):
    print(*(name for name in sys.modules if name.startswith("forkbed.")))
    raise KeyboardInterrupt

transport.Transport.send = ask
main(["--socket", "/nonexistent", "fork", "boss-ops", "try"])
"""


def test_a_fork_is_asked_for_before_what_tells_of_it_is_loaded() -> None:
    answer = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=True)
    loaded = set(answer.stdout.split())
    assert "forkbed.cli.commands.forks" in loaded
    assert not loaded & {"forkbed.engine.requests", "forkbed.engine.branching", "forkbed.api.bodies"}
