"""bash with the completion script, for words with colons above all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import environment_of

_SCRIPT = """
source <(forkbed completion bash)
COMP_LINE=$1 COMP_POINT=${#1}
_forkbed
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("forkbed im", ["image"]),
        ("forkbed show ", ["boss-ops"]),
        ("forkbed image show bo", ["boss:dev"]),
        ("forkbed image show boss:d", ["dev"]),
        ("forkbed copy boss", ["boss-ops/boss:"]),
        ("forkbed up sys", ["system.yaml"]),
    ],
)
def test_words_are_completed(socket: Path, tmp_path: Path, line: str, replies: list[str]) -> None:
    program = tmp_path / "bin" / "forkbed"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m forkbed.cli.main "$@"\n')
    program.chmod(0o755)
    (tmp_path / "system.yaml").touch()
    environment = environment_of(socket)
    environment["PATH"] = f"{program.parent}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", _SCRIPT, "bash", line],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == replies, done.stderr
