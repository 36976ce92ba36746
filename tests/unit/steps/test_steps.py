"""Steps of an upgrade: what each key means, and what is said of wrong ones."""

from __future__ import annotations

import pytest
from blake3 import blake3

from forkbed.config.local_files import steps_files
from forkbed.config.problems import ManifestInvalid
from forkbed.config.steps import ParsedSteps, parse_steps
from forkbed.core.rehearsals.bundle import StepsBundle
from forkbed.core.rehearsals.records import UpgradeStep
from forkbed.core.systems.spec import FileSpec

MACHINES = ("boss", "ops")
FILES = {
    "app/main.py": b"print()",
    "up.sh": b"#!/bin/sh\nexit 3\n",
    "odd name.sh": b"#!/bin/sh\n",
    "no.sh": b"echo",
}


def parse(text: str) -> ParsedSteps:
    return parse_steps(StepsBundle("up.yaml", text, FILES), MACHINES)


def step(text: str) -> UpgradeStep:
    """The only step, on boss, with the keys in `text`."""
    (one,) = parse(f"version: 1\nsteps: [{{machine: boss, {text}}}]\n").steps
    return one


def refused(text: str) -> list[str]:
    with pytest.raises(ManifestInvalid) as caught:
        parse(text)
    return list(caught.value.details)


def wrong(text: str) -> str:
    """The one problem of a step on boss with the keys in `text`, without its place."""
    lines = refused(f"version: 1\nsteps: [{{machine: boss, {text}}}]\n")
    assert len(lines) == 1, lines
    return lines[0].split(": ", 1)[1]


def digest(content: bytes) -> str:
    return blake3(content).hexdigest()


def test_defaults() -> None:
    assert step("run: true") == UpgradeStep("1-boss", "boss", "true")


def test_steps_with_everything() -> None:
    text = """
version: 1
steps:
  - name: New application
    machine: boss
    push:
      - {path: /opt/main.py, source: app/main.py, mode: "0755", owner: www-data}
      - {path: /etc/app.conf, content: "a ${b}"}
    run: |
      systemctl restart ${APP}
    user: experiments
    environment: {APP: experiments, EMPTY: "", LEVEL: 3}
    timeout: 90s
    expect: 3
  - {machine: ops, script: up.sh}
  - {machine: ops, reboot: true, timeout: 2m}
"""
    parsed = parse(text)
    assert parsed.steps == (
        UpgradeStep(
            name="New application",
            machine="boss",
            command="systemctl restart ${APP}\n",
            user="experiments",
            environment=(("APP", "experiments"), ("EMPTY", ""), ("LEVEL", "3")),
            timeout_s=90.0,
            expected_status=3,
            files=(
                FileSpec("/opt/main.py", digest(b"print()"), 0o755, "www-data:www-data"),
                FileSpec("/etc/app.conf", digest(b"a ${b}"), 0o644, "root:root"),
            ),
        ),
        UpgradeStep(
            name="2-ops",
            machine="ops",
            command="/var/lib/forkbed/steps/2-up.sh",
            files=(FileSpec("/var/lib/forkbed/steps/2-up.sh", digest(FILES["up.sh"]), 0o755, "root:root"),),
        ),
        UpgradeStep(name="3-ops", machine="ops", timeout_s=120.0, reboot=True),
    )
    assert parsed.files == {digest(data): data for data in (b"print()", b"a ${b}", FILES["up.sh"])}
    assert steps_files(text, "up.yaml") == {"app/main.py", "up.sh"}


def test_a_script_of_any_name_is_called_safely() -> None:
    assert step('script: "odd name.sh"').command == "/var/lib/forkbed/steps/1-odd_name.sh"


def test_steps_may_share_a_file() -> None:
    push = "push: [{path: /a, source: app/main.py}]"
    parsed = parse(f"version: 1\nsteps: [{{machine: boss, {push}}}, {{machine: ops, {push}}}]\n")
    assert list(parsed.files.values()) == [b"print()"]
    assert [one.name for one in parsed.steps] == ["1-boss", "2-ops"]


def test_everything_wrong_is_told_at_its_place() -> None:
    text = """\
version: 1
steps:
  - machine: bos
    run: "true"
  - {machine: boss, comand: x}
  - machine: op
    timeout: 5
    run: x
  - name: twice
    machine: ops
    script: gone.sh
  - name: twice
    machine: boss
    push: [{path: /a, source: gone.txt}, {path: /a, content: x}]
stepz: []
"""
    assert refused(text) == [
        "up.yaml:3:14: steps[0].machine: the system has no machine `bos`; did you mean `boss`?",
        "up.yaml:5:21: steps[1].comand: unknown key; one of name, machine, run, script, push, user, environment, "
        "timeout, expect, reboot",
        "up.yaml:6:14: steps[2].machine: the system has no machine `op`; did you mean `ops`?",
        "up.yaml:7:14: steps[2].timeout: `5` is not a time; a time needs a number and a unit, such as 30s, 5m or 2h",
        "up.yaml:11:13: steps[3].script: there is no file `gone.sh` that can be read; the path is relative to the "
        "directory of this file",
        "up.yaml:12:11: steps[4].name: `twice` is the name of step 4 too; give each step a name of its own",
        "up.yaml:14:31: steps[4].push[0].source: there is no file `gone.txt` that can be read; the path is relative "
        "to the directory of this file",
        "up.yaml:14:49: steps[4].push[1].path: /a is written twice in this step; push it once",
        "up.yaml:15:1: stepz: unknown key; did you mean `steps`?",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run: x, script: up.sh", "both `run` and `script`; write one of them, or two steps"),
        ("timeout: 5m", "it does nothing; add `run`, `script`, `push` or `reboot: true`"),
        ("reboot: false", "it does nothing"),
        ("reboot: true, user: ann", "`user` without a command; add `run` or `script`, or remove `user`"),
        ("push: [{path: /a, content: x}], expect: 1", "`expect` without a command"),
        ("reboot: true, run: reboot, expect: 1", "a restart has no exit status; remove `expect`"),
        ("script: no.sh", "the first line of `no.sh` does not say what runs it; begin it with `#!/bin/sh`"),
        ("run: x, expect: 256", "`256` is not an exit status; a number from 0 to 255"),
        ("run: x, user: Ann", "`Ann` cannot be the name of an account"),
        ("run: x, environment: {1A: b}", "`1A` cannot name a variable"),
        ('run: x, environment: {A: "b\\0"}', "it holds a NUL character"),
        ("run: x, push: [{path: a, content: x}]", "`a` is not an absolute path"),
        ("run: x, push: [{path: /a}]", "neither `source` nor `content`"),
        ("run: x, reboot: maybe", "`maybe` is neither true nor false"),
    ],
)
def test_what_is_wrong_with_a_step(text: str, words: str) -> None:
    assert words in wrong(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: 1\nsteps: []\n", "up.yaml:2:1: steps: there is no step"),
        ("version: 1\n", "steps: is missing"),
        ("version: 1\nsteps: {a: b}\n", "a list is wanted"),
        ("version: 1\nsteps: [reboot]\n", "up.yaml:2:9: steps[0]: `reboot` cannot be here; a mapping"),
        ("version: 2\nsteps: [{machine: boss, run: x}]\n", "`2` is not a version that is known here"),
        ("version: 1\nsteps: [{run: x}]\n", "steps[0].machine: is missing"),
        ("version: 1\nsteps: [{machine: boss, run: x, run: y}]\n", "the key is here twice"),
        ("steps: [", "up.yaml:"),
    ],
)
def test_what_is_wrong_with_a_file_of_steps(text: str, words: str) -> None:
    assert any(words in line for line in refused(text)), refused(text)


def test_a_made_name_does_not_hide_a_given_one() -> None:
    told = refused("version: 1\nsteps:\n- {name: 2-boss, machine: ops, run: x}\n- {machine: boss, run: y}\n")
    assert told == [
        "up.yaml:4:3: steps[1].name: `2-boss` is the name of step 1 too; give each step a name of its own"
    ]
