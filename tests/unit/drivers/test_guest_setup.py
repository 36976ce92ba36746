"""Set-up commands against a guest that is a local shell with directories of its own."""

from __future__ import annotations

import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.systems.spec import SetupSpec, SetupWhen
from forkbed.drivers.guests.setup import MARK_DIRECTORIES, mark_paths, run_setup
from forkbed.ports.guests import CommandChannel
from forkbed.ports.progress import Cancelled


class LocalChannel:
    """A command on this machine in place of the guest's."""

    via = "ssh"
    notice = ""

    def __init__(self, argv: tuple[str, ...]) -> None:
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self._process.stdout
        self._output = self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()

    def read(self, timeout_s: float) -> tuple[str, bytes] | None:
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return "", b""
        data = self._output.read()
        return ("stdout", data) if data else None

    def write(self, data: bytes) -> None:
        raise AssertionError("a set-up command gets no input")

    def close_input(self) -> None:
        return None

    def resize(self, rows: int, columns: int) -> None:
        raise AssertionError("a set-up command has no terminal")

    def exit_status(self) -> int:
        return self._process.wait()


class Guest:
    """Marks and effects below one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.told: list[str] = []
        self.cancelled = False

    def open(self, argv: tuple[str, ...]) -> AbstractContextManager[CommandChannel]:
        local = argv
        for when, path in MARK_DIRECTORIES.items():
            local = tuple(word.replace(path, str(self.directory / when)) for word in local)
        return LocalChannel(local)

    def run(self, *commands: SetupSpec) -> None:
        run_setup("boss", self.open, commands, self)

    def tell(self, message: str, *, done: float | None = None) -> None:
        self.told.append(message)

    def check_cancelled(self) -> None:
        if self.cancelled:
            raise Cancelled

    def appends(self, text: str, when: SetupWhen = SetupWhen.ONCE) -> SetupSpec:
        return SetupSpec(f"echo {text} >>{self.directory}/log", when)

    @property
    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def test_each_command_runs_once_and_in_order(guest: Guest) -> None:
    commands = (guest.appends("one"), guest.appends("two", SetupWhen.BOOT))
    guest.run(*commands)
    guest.run(*commands)
    assert guest.log == "one\ntwo\n"
    assert any("set-up 1/2: echo one" in message for message in guest.told)


def test_each_boot_means_after_each_boot(guest: Guest) -> None:
    commands = (guest.appends("once"), guest.appends("boot", SetupWhen.BOOT))
    guest.run(*commands)
    for mark in (guest.directory / SetupWhen.BOOT).iterdir():  # the guest's /run is gone
        mark.unlink()
    guest.run(*commands)
    assert guest.log == "once\nboot\nboot\n"


def test_the_same_command_twice_runs_twice_and_a_changed_one_again(guest: Guest) -> None:
    guest.run(guest.appends("a"), guest.appends("a"))
    guest.run(guest.appends("a"), guest.appends("a"), guest.appends("b"))
    assert guest.log == "a\na\nb\n"
    assert len(set(mark_paths([guest.appends("a"), guest.appends("a"), guest.appends("b")]))) == 3


def test_a_failing_command_tells_its_own_words_and_is_tried_again(guest: Guest) -> None:
    failing = SetupSpec(f"echo begin; echo cannot reach the database >&2; test -e {guest.directory}/fixed")
    with pytest.raises(OperationalError) as failure:
        guest.run(failing, guest.appends("never"))
    assert failure.value.kind is Kind.FAULT
    assert failure.value.subject == "machine boss"
    assert "set-up 1/2" in failure.value.brief
    assert "exit status 1" in failure.value.brief
    assert "cannot reach the database" in failure.value.details
    assert guest.log == ""
    (guest.directory / "fixed").touch()
    guest.run(failing)


def test_a_command_that_calls_exit_is_still_marked_only_after_success(guest: Guest) -> None:
    with pytest.raises(OperationalError):
        guest.run(SetupSpec("exit 3"))
    guest.run(SetupSpec("exit 0"))
    assert len(list((guest.directory / SetupWhen.ONCE).iterdir())) == 1


def test_a_command_that_takes_too_long_is_ended(guest: Guest) -> None:
    started = time.monotonic()
    with pytest.raises(OperationalError) as failure:
        guest.run(SetupSpec("exec sleep 60", timeout_s=0.3))
    assert "no end after 0.3 s" in failure.value.brief
    assert time.monotonic() - started < 10


def test_cancelling_ends_a_running_command(guest: Guest) -> None:
    def cancel_soon(message: str, *, done: float | None = None) -> None:
        guest.cancelled = "set-up 1/1" in message

    guest.tell = cancel_soon  # type: ignore[method-assign]
    started = time.monotonic()
    with pytest.raises(Cancelled):
        guest.run(SetupSpec("exec sleep 60"))
    assert time.monotonic() - started < 10
