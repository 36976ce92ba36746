"""The completion scripts in the shells they are for, with a person's keys: what Tab makes of a line.

bash is always there; zsh and fish are tried where they are.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli.conftest import environment_of

_TAB, _TELL, _CLEAR = b"\t", b"\x18\x14", b"\x15"  # Tab, Ctrl-X Ctrl-T, Ctrl-U
_WAIT_S = 60.0
# How each shell is started, where it reads what, and how Ctrl-X Ctrl-T writes the line into the file `told`.
_SHELLS = {
    "bash": (
        ["bash", "--rcfile", "rc", "-i"],
        {
            "rc": """source <(forkbed completion bash)
tell() { printf '%s' "$READLINE_LINE" >told.new; mv told.new told; }
bind -x '"\\C-x\\C-t": tell'
PS1='rea''dy '
"""
        },
    ),
    "zsh": (
        ["zsh", "-i"],
        {
            ".zshrc": """fpath=($PWD/functions $fpath)
forkbed completion zsh >functions/_forkbed
autoload -Uz compinit; compinit -u -D
tell() { print -rn -- $BUFFER >told.new; mv told.new told }
zle -N tell; bindkey '^X^T' tell
PS1='rea''dy '
"""
        },
    ),
    "fish": (
        ["fish", "-i"],
        {
            ".config/fish/config.fish": """forkbed completion fish >~/.config/fish/completions/forkbed.fish
function tell; commandline | string collect | read -z line; printf %s (string trim -r -c \\n -- $line) >told.new
mv told.new told; end
bind \\cx\\ct tell
function fish_prompt; echo -n rea; echo -n 'dy '; end
function fish_greeting; end
"""
        },
    ),
}
_LINES = [
    ("forkbed im", "forkbed image "),
    ("forkbed show ", "forkbed show boss-ops "),
    ("forkbed image show bo", "forkbed image show boss:dev "),
    ("forkbed image show boss:d", "forkbed image show boss:dev "),
    ("forkbed copy boss", "forkbed copy boss-ops/boss:"),
    ("forkbed rollback boss-ops bef", "forkbed rollback boss-ops before-upgrade "),
    ("forkbed up sys", "forkbed up system.yaml "),
    ("forkbed up two", r"forkbed up two\ words.yaml "),
    ("forkbed --json exec boss-ops/boss -- sys", "forkbed --json exec boss-ops/boss -- system.yaml "),
    ("forkbed up --re", "forkbed up --restart "),
    ("forkbed show none ", "forkbed show none "),
]


class Shell:
    """An interactive shell on a pseudo-terminal of its own, in `home`."""

    def __init__(self, argv: list[str], home: Path, environment: dict[str, str]) -> None:
        self._told = home / "told"
        self._outer, inner = pty.openpty()
        termios.tcsetwinsize(inner, (24, 120))
        self.seen = b""
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *argv],
            cwd=home,
            env=environment,
            stdin=inner,
            stdout=inner,
            stderr=inner,
        )
        os.close(inner)

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _WAIT_S
        while not condition():
            assert time.monotonic() < deadline, self.seen
            if select.select([self._outer], [], [], 0.02)[0]:
                self.seen += os.read(self._outer, 4096)

    def complete(self, line: str) -> str:
        """The line after Tab."""
        self._told.unlink(missing_ok=True)
        os.write(self._outer, line.encode() + _TAB + _TELL)
        self.wait(self._told.exists)
        os.write(self._outer, _CLEAR)
        return self._told.read_text()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._outer)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    # fish would fill the last one in the background, from all manual pages.
    for directory in (
        "bin",
        "functions",
        ".config/fish/completions",
        ".local/share/fish/generated_completions",
    ):
        (home / directory).mkdir(parents=True)
    program = home / "bin" / "forkbed"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m forkbed.cli.main "$@"\n')
    program.chmod(0o755)
    for name in ("system.yaml", "two words.yaml"):
        (home / name).touch()
    return home


@pytest.mark.parametrize("shell", [name for name in _SHELLS if name == "bash" or shutil.which(name)])
def test_a_tab_completes_the_line(shell: str, socket: Path, home: Path) -> None:
    argv, files = _SHELLS[shell]
    for name, content in files.items():
        (home / name).write_text(content)
    environment = environment_of(socket) | {"HOME": str(home), "ZDOTDIR": str(home), "TERM": "dumb"}
    environment["PATH"] = f"{home / 'bin'}:{environment['PATH']}"
    session = Shell(argv, home, environment)
    try:
        session.wait(lambda: b"ready " in session.seen)
        assert [(line, session.complete(line)) for line, _ in _LINES] == _LINES
    finally:
        session.close()
