"""A guest that goes on from a memory, with an agent that follows a script; what reseeds is run for real."""

from __future__ import annotations

import base64
import errno
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId
from forkbed.drivers.guests import awakening
from forkbed.drivers.guests.agent import Agents
from forkbed.drivers.images import guestfiles
from tests.unit.drivers import samples

BOSS = samples.machine()
NOW = 1_900_000_000.0
ENTROPY = bytes(range(64))


class ScriptedAgent:
    """Answers by command; a function is called with the arguments, an error is raised, and so is no answer."""

    def __init__(self, **answers: object) -> None:
        self.answers: dict[str, Any] = {
            "guest-ping": {},
            "guest-set-time": {},
            "guest-exec": {"pid": 7},
            "guest-exec-status": {"exited": True, "exitcode": 0},
        } | {name.replace("_", "-"): answer for name, answer in answers.items()}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def ask(self, machine_id: MachineId, text: str, timeout_s: float) -> str:
        words = json.loads(text)
        self.asked.append((words["execute"], words["arguments"]))
        answer = self.answers[words["execute"]]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if callable(answer):
            answer = answer(words["arguments"])
        if isinstance(answer, OperationalError):
            raise answer
        return json.dumps({"return": answer})

    def awaken(self, timeout_s: float = 5.0) -> str:
        return awakening.awaken(Agents(self.ask), BOSS, NOW, ENTROPY, timeout_s)

    def commands(self) -> list[str]:
        return [command for command, _ in self.asked]


SILENT = OperationalError(Kind.UNREACHABLE, "machine boss", "its agent does not answer")
DONE: dict[str, object] = {"exited": True, "exitcode": 0}
FAILED = DONE | {"exitcode": 1, "err-data": base64.b64encode(b"x\nno permission\n").decode()}
NO_DATE = DONE | {"out-data": base64.b64encode(b"no date\n").decode()}
NO_PROGRAM = OperationalError(Kind.FAULT, "machine boss", "Guest agent command failed: no such file")
UNKNOWN = OperationalError(Kind.FAULT, "machine boss", "this command is not supported")


def test_clock_then_randomness() -> None:
    agent = ScriptedAgent()
    assert agent.awaken() == ""
    assert agent.commands() == ["guest-ping", "guest-exec", "guest-exec-status"]
    assert 0 <= told_time(agent) - NOW < 5
    assert base64.b64decode(agent.asked[1][1]["input-data"]) == ENTROPY


def test_the_time_is_that_of_the_call_to_the_agent() -> None:
    def slow(_: object) -> dict[str, object]:
        time.sleep(0.2)
        return {}

    agent = ScriptedAgent(guest_ping=slow)
    agent.awaken()
    assert told_time(agent) - NOW >= 0.2


def test_an_agent_that_is_not_up_yet_is_waited_for() -> None:
    agent = ScriptedAgent(guest_ping=[SILENT, SILENT, {}])
    assert agent.awaken() == ""
    assert agent.commands()[:4] == ["guest-ping"] * 3 + ["guest-exec"]


@pytest.mark.parametrize(
    "error", [SILENT, OperationalError(Kind.NOT_FOUND, "machine boss", "is not defined")]
)
def test_a_guest_without_agent_is_told(error: OperationalError) -> None:
    agent = ScriptedAgent(guest_ping=error)
    told = agent.awaken(timeout_s=0.1)
    assert error.brief in told
    assert "clock" in told and "randomness" in told
    assert set(agent.commands()) == {"guest-ping"}


def told_time(agent: ScriptedAgent) -> float:
    """What the program sets the clock to."""
    seconds, nanoseconds = agent.asked[1][1]["arg"]
    assert 0 <= int(nanoseconds) < 1e9
    return int(seconds) + int(nanoseconds) / 1e9


def foreign(**answers: object) -> ScriptedAgent:
    """In a guest that Forkbed did not build."""

    def start(words: dict[str, Any]) -> object:
        return {"pid": 7} if words["path"] == "/bin/sh" else NO_PROGRAM

    return ScriptedAgent(**{"guest_exec": start} | answers)


def test_the_program_s_failures_are_told() -> None:
    clock = DONE | {"exitcode": 128}
    agent = ScriptedAgent(guest_exec_status=clock)
    assert agent.awaken() == ""
    command, words = agent.asked[3]
    assert command == "guest-set-time"
    assert 0 <= words["time"] / 1e9 - NOW < 5
    agent = ScriptedAgent(guest_exec_status=clock, guest_set_time=UNKNOWN)
    assert agent.awaken() == "clock: as it was at the cut: this command is not supported"
    agent = ScriptedAgent(guest_exec_status=DONE | {"exitcode": errno.EPERM})
    assert agent.awaken() == "randomness: Operation not permitted"
    agent = ScriptedAgent(guest_exec_status={"exited": True, "signal": 9})
    assert agent.awaken() == "randomness: ended by signal 9"
    assert agent.commands()[-1] == "guest-set-time", "whether it got as far as that is not known"


def test_a_script_does_it_where_the_program_is_not_there() -> None:
    agent = foreign()
    assert agent.awaken() == ""
    assert agent.commands() == ["guest-ping", "guest-exec", "guest-exec", "guest-exec-status"]
    found = re.search(r"date -u -s @([0-9.]+)", agent.asked[2][1]["arg"][1])
    assert found and 0 <= float(found[1]) - NOW < 5
    assert base64.b64decode(agent.asked[2][1]["input-data"]) == ENTROPY


def test_without_date_the_agent_sets_the_clock() -> None:
    agent = foreign(guest_exec_status=NO_DATE)
    assert agent.awaken() == ""
    command, words = agent.asked[4]
    assert command == "guest-set-time"
    assert 0 <= words["time"] / 1e9 - NOW < 5


def test_what_the_script_fails_of_is_told_and_the_rest_is_done() -> None:
    agent = foreign(guest_set_time=UNKNOWN, guest_exec_status=NO_DATE)
    assert agent.awaken() == "clock: as it was at the cut: this command is not supported"
    agent = foreign(guest_exec_status=FAILED)
    assert agent.awaken() == "randomness: no permission"
    agent = foreign(guest_exec_status={"exited": True, "signal": 9})
    assert agent.awaken() == "randomness: ended by signal 9"
    agent = ScriptedAgent(guest_exec=SILENT)
    assert agent.awaken() == "clock and randomness are as they were at the cut: its agent does not answer"


def test_a_guest_that_never_ends_is_left_when_time_is_up() -> None:
    agent = ScriptedAgent(guest_exec_status={"exited": False})
    assert "takes too long" in agent.awaken(timeout_s=0.1)


@pytest.fixture
def run_reseed(tmp_path: Path) -> Callable[..., tuple[str, list[str]]]:
    """Runs the script that the guest gets, in a directory with the named programs only; tells what was called."""

    def run(*programs: str) -> tuple[str, list[str]]:
        log = tmp_path / "called"
        for name in programs:
            path = tmp_path / name
            path.write_text(f'#!/bin/sh\necho "{name} $(wc -c)" >>{log}\n')
            path.chmod(0o755)
        (tmp_path / "wc").symlink_to(shutil.which("wc") or "")

        def answer(words: dict[str, Any]) -> object:
            if words["path"] != "/bin/sh":
                return NO_PROGRAM
            script = words["arg"][1]
            script = script[script.index("PATH=") :]  # the host's clock stays as it is
            for old, new in (
                ("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", str(tmp_path)),
                ("/dev/urandom", str(tmp_path / "written")),
            ):
                assert old in script
                script = script.replace(old, new)
            done = subprocess.run(
                ["/bin/sh", "-c", script], input=base64.b64decode(words["input-data"]), check=False
            )
            agent.answers["guest-exec-status"] = {"exited": True, "exitcode": done.returncode}
            return {"pid": 7}

        agent = ScriptedAgent(guest_exec=answer)
        return agent.awaken(), log.read_text().split("\n")[:-1] if log.exists() else []

    return run


def test_perl_reseeds_where_there_is_no_program_for_it(
    run_reseed: Callable[..., tuple[str, list[str]]],
) -> None:
    assert run_reseed("perl") == ("", [f"perl {len(ENTROPY)}"])


def test_a_plain_write_is_better_than_nothing_and_told(
    run_reseed: Callable[..., tuple[str, list[str]]], tmp_path: Path
) -> None:
    (tmp_path / "cat").symlink_to(shutil.which("cat") or "")
    told, called = run_reseed()
    assert "within minutes" in told
    assert not called
    assert (tmp_path / "written").read_bytes() == ENTROPY


@pytest.mark.parametrize(
    "words", [[], ["5"], ["x", "1"], ["1", "2x"], ["-1", "0"], ["9" * 30, "0"], ["", "1"]]
)
def test_the_program_is_small_and_sets_no_clock_to_nonsense(words: list[str], tmp_path: Path) -> None:
    guestfiles.compile_program(guestfiles.AWAKEN, tmp_path)
    program = tmp_path / guestfiles.AWAKEN.path
    assert program.stat().st_size < 4096
    before = time.time() - time.monotonic()
    done = subprocess.run([program, *words], input=b"", check=False)
    assert done.returncode == 128 + errno.ENODATA, "no time that can be set, and nothing to mix in"
    assert abs(time.time() - time.monotonic() - before) < 1
