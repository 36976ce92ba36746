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
    ["forkbed.api.client", "forkbed.api.client.streams", "forkbed.cli.main", "forkbed.cli.commands.systems"],
)
def test_it_loads_nothing_heavy(module: str) -> None:
    probe = _PROBE.format(module=module, heavy=HEAVY)
    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []
