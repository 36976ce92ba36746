from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import liveness, processes


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def test_output_of_any_size_comes_back_and_input_goes_in() -> None:
    data = os.urandom(3_000_000)
    completed = processes.run(["cat"], input=data)
    assert completed.stdout == data
    assert completed.status == 0


def test_without_input_a_command_reads_nothing() -> None:
    assert processes.run(["cat"], timeout_s=5).stdout == b""


def test_arguments_meet_no_shell() -> None:
    hostile = "$(touch /nowhere); `id` 'x' \"y\" *"
    assert processes.run(["printf", "%s", hostile]).text == hostile


def test_a_failure_says_what_the_tool_said_and_how_to_repeat_it() -> None:
    with pytest.raises(OperationalError) as caught:
        processes.run(["ls", "/no such place"], subject="directory", remedy="make it")
    error = caught.value
    assert error.kind is Kind.FAULT
    assert error.subject == "directory"
    assert "exit status 2" in error.brief
    assert "No such file or directory" in error.brief
    assert error.details[0] == "command: ls '/no such place'"
    assert error.remedy == "make it"


def test_the_tools_own_words_are_cut() -> None:
    code = "import sys; [print('line', n, file=sys.stderr) for n in range(9999)]; sys.exit(3)"
    with pytest.raises(OperationalError) as caught:
        processes.run(python(code))
    assert caught.value.details[-1] == "line 9998"
    assert len(caught.value.details) <= 21


def test_the_line_that_tells_most_is_chosen() -> None:
    code = "import sys; sys.exit('stdin:1: Error: syntax error, unexpected fwd\\ntable x { chain fwd }\\n    ^^^')"
    with pytest.raises(OperationalError) as caught:
        processes.run(python(code))
    assert caught.value.brief.endswith("exit status 1: stdin:1: Error: syntax error, unexpected fwd")


def test_accepted_statuses_are_no_failure() -> None:
    assert processes.run(["false"], accept=(0, 1)).status == 1
    assert processes.run(python("import os; os.abort()"), accept=None).status == -signal.SIGABRT


def test_the_tool_speaks_english_and_finds_system_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")
    monkeypatch.setenv("PATH", "/usr/bin")
    seen = processes.run(["env"], environment={"ADDED": "yes"}).text.splitlines()
    assert {"LC_ALL=C", "ADDED=yes"} <= set(seen)
    assert not any(line.startswith("LANGUAGE=") for line in seen)
    assert any(line.startswith("PATH=/usr/bin:") and "/usr/sbin" in line for line in seen)


def test_too_long_is_no_answer_and_leaves_no_child_behind(tmp_path: Path) -> None:
    mark = tmp_path / "child"
    code = (
        "import subprocess, sys; child = subprocess.Popen(['sleep', '60'])\n"
        "open(sys.argv[1], 'w').write(str(child.pid)); print('began', flush=True); child.wait()"
    )
    with pytest.raises(OperationalError, match="did not end within 1 s") as caught:
        processes.run(python(code, str(mark)), timeout_s=1)
    assert caught.value.kind is Kind.UNREACHABLE
    assert caught.value.details[1:] == ("began",)
    child = int(mark.read_text())
    deadline = time.monotonic() + 5
    while liveness.identify(child) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert liveness.identify(child) is None


def test_a_missing_tool_is_told_as_such() -> None:
    with pytest.raises(OperationalError, match="is not installed"):
        processes.run(["forkbed-no-such-tool"])


def test_a_line_is_refused() -> None:
    with pytest.raises(TypeError):
        processes.run("ls -l")


def test_a_process_is_recognised_and_ended() -> None:
    process = processes.spawn(["sleep", "60"], own_session=True)
    known = liveness.identify(process.pid)
    assert known is not None
    assert liveness.ProcessId.parse(str(known)) == known
    assert liveness.is_alive(known)
    stranger = liveness.ProcessId(known.pid, known.started_ticks + 1)
    assert not liveness.is_alive(stranger)
    assert not liveness.send(stranger, signal.SIGKILL)
    assert liveness.end(known, grace_s=5)
    assert process.wait(5) == -signal.SIGTERM
    assert not liveness.is_alive(known)
    assert liveness.end(known, grace_s=0)


def test_a_process_that_ignores_the_request_is_killed() -> None:
    process = processes.spawn(
        python("import signal, time; signal.signal(15, 1); print(flush=True); time.sleep(60)"),
        stdout=processes.PIPE,
    )
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        known = liveness.identify(process.pid)
        assert known is not None
        assert liveness.end(known, grace_s=0.1)
    assert process.wait(5) == -signal.SIGKILL


def test_a_bound_child_dies_with_its_parent() -> None:
    words = processes.dying_with_parent(["sleep", "60"])
    code = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); import time; time.sleep(.3)"
    child = int(processes.run(python(code, *words), timeout_s=10).text)
    deadline = time.monotonic() + 5
    while liveness.identify(child) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert liveness.identify(child) is None
