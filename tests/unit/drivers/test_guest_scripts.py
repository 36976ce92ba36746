"""Quoting and the scripts that run in guests, tried in the shells that guests have."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers.guests import scripts
from forkbed.drivers.guests.trailer import StatusTrailer, status_mark

SHELLS = [["/bin/sh", "-c"], ["busybox", "sh", "-c"], ["bash", "-c"]]
HARD_WORDS = [
    "a b",
    "it's",
    '"',
    "$HOME `id` \\",
    "line\nline\n",
    "",
    "*",
    "-n",
    "ünï",
    "!x",
    "a;b|c&d>e",
    "~",
]


def script_in(directory: Path, script: str) -> str:
    return script.replace(scripts.DIRECTORY, str(directory)).replace(scripts.OUTPUT_DIRECTORY, str(directory))


def run(shell: Sequence[str], script: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*shell, script], capture_output=True, timeout=30)


@pytest.mark.parametrize("shell", SHELLS, ids=["sh", "busybox", "bash"])
def test_words_arrive_exactly(shell: list[str], tmp_path: Path) -> None:
    argv = [
        "python3",
        "-c",
        "import os,sys; sys.stdout.buffer.write(b'\\0'.join(map(os.fsencode, sys.argv[1:])))",
    ]
    script = scripts.command_script([*argv, *HARD_WORDS], "root", "t")
    done = run(shell, script_in(tmp_path, script))
    assert (done.returncode, done.stderr) == (0, status_mark("t") + b"0\n")
    assert done.stdout.split(b"\0") == [os.fsencode(word) for word in HARD_WORDS]
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(blacklist_characters="\0", codec="utf-8"), max_size=20), max_size=6))
def test_quoting_is_undone_by_a_posix_reader(words: list[str]) -> None:
    assert shlex.split(scripts.quoted(words)) == words


@pytest.mark.parametrize("shell", SHELLS, ids=["sh", "busybox", "bash"])
@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "exit 255"], 255),
        (["sh", "-c", "kill -9 $$"], 128 + 9),
        (["no-such-program"], 127),
        (["if"], 127),  # a word of the shell is no program
        (["cd", "/"], 127),
    ],
)
def test_status(shell: list[str], argv: list[str], status: int, tmp_path: Path) -> None:
    done = run(shell, script_in(tmp_path, scripts.command_script(argv, "root", "t")))
    assert done.returncode == status
    trailer = StatusTrailer("t")
    assert b"forkbed-status" not in trailer.pass_on(done.stderr)
    assert trailer.status == status


@pytest.mark.parametrize("shell", SHELLS, ids=["sh", "busybox", "bash"])
def test_an_interrupt_in_a_terminal_is_told_as_a_status(shell: list[str], tmp_path: Path) -> None:
    script = scripts.command_script(["sh", "-c", "kill -INT 0; sleep 5"], "root", "t", terminal=True)
    done = subprocess.run([*shell, script_in(tmp_path, script)], timeout=10, start_new_session=True)
    assert done.returncode == 128 + signal.SIGINT


@given(st.binary(max_size=40), st.binary(max_size=40), st.lists(st.integers(1, 60), max_size=20))
def test_the_status_is_taken_out_however_the_stream_is_cut(
    before: bytes, after: bytes, cuts: list[int]
) -> None:
    stream = before + status_mark("t0k") + b"143\n" + after
    trailer = StatusTrailer("t0k")
    passed = b""
    for length in [*cuts, len(stream)]:
        passed += trailer.pass_on(stream[:length])
        stream = stream[length:]
    assert passed + trailer.rest() == before + after
    assert trailer.status == 143


@given(st.lists(st.binary(max_size=20) | st.just(status_mark("other") + b"1\n")))
def test_nothing_else_is_taken_out(pieces: list[bytes]) -> None:
    trailer = StatusTrailer("t0k")
    assert b"".join(map(trailer.pass_on, pieces)) + trailer.rest() == b"".join(pieces)
    assert trailer.status is None


@pytest.mark.parametrize("words", [HARD_WORDS])
def test_another_user_gets_the_same_words(words: list[str], tmp_path: Path) -> None:
    argv = ["python3", "-c", "import os,sys; print(os.getuid()); print(ascii(sys.argv[1:]))", *words]
    tmp_path.chmod(0o755)
    done = run(["sh", "-c"], script_in(tmp_path, scripts.command_script(argv, "nobody", "t")))
    assert done.stderr == status_mark("t") + b"0\n"
    uid, arrived = done.stdout.decode().splitlines()
    assert uid == "65534"
    assert arrived == ascii(words)


def test_a_nul_byte_or_too_much_is_refused() -> None:
    for words in (["a\0b"], ["x" * 200_000]):
        with pytest.raises(OperationalError) as failure:
            scripts.quoted(words)
        assert failure.value.kind is Kind.INVALID


@pytest.mark.parametrize("shell", SHELLS, ids=["sh", "busybox", "bash"])
def test_the_end_script_ends_a_command_and_its_children(shell: list[str], tmp_path: Path) -> None:
    marker = f"sleep 12{os.getpid() % 10000:04d}"
    command = f"trap '' HUP; {marker} & {marker} & wait"
    script = script_in(tmp_path, scripts.command_script(["sh", "-c", command], "root", "t"))
    process = subprocess.Popen([*shell, script], start_new_session=True)
    threading.Thread(target=process.wait).start()  # as sshd does; an unreaped process would seem to live on
    try:
        deadline = time.monotonic() + 10
        while len(running(marker)) < 2:
            assert time.monotonic() < deadline, "the command did not start"
            time.sleep(0.02)
        done = run(shell, script_in(tmp_path, scripts.end_script("t")))
        assert (done.returncode, done.stderr) == (0, b"")
        assert process.wait(10) != 0
        deadline = time.monotonic() + 5
        while running(marker):
            assert time.monotonic() < deadline, "children were left"
            time.sleep(0.02)
        assert list(tmp_path.iterdir()) == []
        assert run(shell, script_in(tmp_path, scripts.end_script("t"))).returncode == 0  # nothing left to end
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def running(marker: str) -> list[int]:
    words = marker.encode().replace(b" ", b"\0")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if (entry / "cmdline").read_bytes().rstrip(b"\0") == words:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_the_agent_script_streams_through_files(tmp_path: Path) -> None:
    """The same steps as `agent.AgentChannel`, with local shells in the agent's place."""
    script = script_in(
        tmp_path, scripts.agent_script(["sh", "-c", "wc -c; echo bad >&2; exit 3"], "root", "t")
    )
    script = re.sub(r"cd /root 2>/dev/null", "cd /", script)
    process = subprocess.Popen(["/bin/sh", "-c", script])
    deadline = time.monotonic() + 10
    while not (tmp_path / "forkbed-t.stderr").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for piece in (b"x" * 300_000, b"y" * 5):
        done = subprocess.run(
            ["/bin/sh", "-c", script_in(tmp_path, scripts.agent_input_script("t"))], input=piece, timeout=10
        )
        assert done.returncode == 0
    assert process.poll() is None, "the command must not see the end of its input between two pieces"
    run(["/bin/sh", "-c"], script_in(tmp_path, scripts.agent_close_script("t")))
    assert process.wait(10) == 3
    assert (tmp_path / "forkbed-t.stdout").read_bytes().strip() == b"300005"
    assert (tmp_path / "forkbed-t.stderr").read_bytes() == b"bad\n"
    run(["/bin/sh", "-c"], script_in(tmp_path, scripts.end_script("t")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_log_in_shell_gets_the_mark_by_its_environment(tmp_path: Path, shell: list[str]) -> None:
    own = tmp_path / "shell"
    own.write_text('#!/bin/sh\nprintf "%s|%s|%s" "$*" "$debian_chroot" "$PS1"\n')
    own.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "SHELL": str(own)}

    def started(mark: str) -> str:
        script = scripts.shell_script("root", mark)
        return subprocess.run([*shell, script], env=environment, capture_output=True, text=True).stdout

    assert started("fork of boss-ops") == "-l|fork of boss-ops|(fork of boss-ops) $PWD # "
    assert started("").startswith("-l||")


@pytest.mark.parametrize(
    ("help_text", "called"),
    [
        ("-w, --whitelist-environment <list>", "-w debian_chroot,PS1 - app: fork of a"),
        ("no such thing", "- app: fork of a"),
    ],
)
def test_another_users_shell_gets_it_where_su_can(tmp_path: Path, help_text: str, called: str) -> None:
    su = tmp_path / "su"
    su.write_text(
        f'#!/bin/sh\nif [ "$1" = --help ]; then echo "{help_text}"; else echo "$*: $debian_chroot"; fi\n'
    )
    su.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = scripts.shell_script("app", "fork of a")
    done = subprocess.run(["/bin/sh", "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == called
