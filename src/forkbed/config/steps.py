"""From a file of steps and its local files to `UpgradeStep`s: everything wrong with it at once, at its place.

Like the image recipe it has no variables: `${…}` in a command is the guest's shell's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from forkbed.base.errors import Problem
from forkbed.base.words import quoted, suggest
from forkbed.config.document import check_data, locate
from forkbed.config.problems import ManifestInvalid, Path
from forkbed.config.steps_model import PushedFile, Step, StepsDocument
from forkbed.config.variables import to_data
from forkbed.config.yamlsource import read_yaml
from forkbed.core.rehearsals.bundle import StepsBundle
from forkbed.core.rehearsals.records import UpgradeStep
from forkbed.core.systems.spec import FileSpec

SCRIPTS = "/var/lib/forkbed/steps"
"""Where scripts go in the guest: a file system that programs may be run from, unlike /run and often /tmp."""


@dataclass(frozen=True, slots=True)
class ParsedSteps:
    """Good steps. `files` maps the BLAKE3 of every file that they push to its bytes."""

    steps: tuple[UpgradeStep, ...]
    files: Mapping[str, bytes]


def parse_steps(bundle: StepsBundle, machines: Sequence[str]) -> ParsedSteps:
    """The steps that a bundle holds, for a system of these machines. Raises `ManifestInvalid` with all problems."""
    source = read_yaml(bundle.text, bundle.file_name)
    data = to_data(source.root).value
    checked = check_data(data, StepsDocument)
    written = data.get("steps") if isinstance(data, dict) else None
    entries = list(enumerate(written)) if isinstance(written, list) else []
    reader = _Reader(bundle)
    steps = []
    for index, entry in entries:
        step = check_data(entry, Step)
        if isinstance(step, Step):  # what is wrong with the others is in `checked`
            steps.append(reader.step(index, step))
    problems = [*reader.problems, *_unknown_machines(entries, machines), *_used_twice(entries)]
    if isinstance(checked, list):
        problems += checked
    if source.problems or problems:
        positions = source.positions
        located = [locate(positions, problem) for problem in problems]
        raise ManifestInvalid(bundle.file_name, source.problems + located)
    return ParsedSteps(tuple(steps), reader.files)


def _unknown_machines(entries: list[tuple[int, Any]], machines: Sequence[str]) -> Iterator[Problem]:
    """Looks at what is written, so that a step with another problem is looked at too."""
    for index, entry in entries:
        name = entry.get("machine") if isinstance(entry, dict) else None
        if isinstance(name, str) and name not in machines:
            wrong = f"the system has no machine {quoted(name)}"
            yield Problem(("steps", index, "machine"), wrong, suggest(name, machines))


def _used_twice(entries: list[tuple[int, Any]]) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for index, entry in entries:
        if not isinstance(entry, dict):
            continue
        name = entry.get("name", _made_name(index, str(entry.get("machine"))))
        if isinstance(name, str) and seen.setdefault(name, index) != index:
            wrong = f"{quoted(name)} is the name of step {seen[name] + 1} too"
            yield Problem(("steps", index, "name"), wrong, "give each step a name of its own")


def _made_name(index: int, machine: str) -> str:
    return f"{index + 1}-{machine}"


@dataclass(slots=True)
class _Reader:
    """Turns good entries into steps; `files` (by BLAKE3) and `problems` fill up meanwhile."""

    bundle: StepsBundle
    files: dict[str, bytes] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def step(self, index: int, entry: Step) -> UpgradeStep:
        path: Path = ("steps", index)
        pushed = tuple(self._pushed((*path, "push", number), file) for number, file in enumerate(entry.push))
        self._same_places(path, pushed)
        command = entry.run or ""
        if entry.script is not None:
            script = self._script(path, index, entry.script)
            command = script.path
            pushed = (*pushed, script)
        return UpgradeStep(
            name=entry.name or _made_name(index, entry.machine),
            machine=entry.machine,
            command=command,
            user=entry.user,
            environment=tuple(entry.environment.items()),
            timeout_s=entry.timeout,
            expected_status=entry.expect,
            reboot=entry.reboot,
            files=pushed,
        )

    def _pushed(self, path: Path, file: PushedFile) -> FileSpec:
        content = (file.content or "").encode()
        if file.source is not None:
            content = self._local((*path, "source"), file.source)
        return FileSpec(file.path, self._kept(content), file.mode, file.owner)

    def _script(self, path: Path, index: int, source: str) -> FileSpec:
        here = (*path, "script")
        known = len(self.problems)
        content = self._local(here, source)
        if len(self.problems) == known and not content.startswith(b"#!"):
            wrong = f"the first line of {quoted(source)} does not say what runs it"
            self.problems.append(Problem(here, wrong, "begin it with `#!/bin/sh`, or push it and `run` it"))
        name = re.sub(r"[^A-Za-z0-9._-]", "_", source.rsplit("/", 1)[-1])
        return FileSpec(f"{SCRIPTS}/{index + 1}-{name}", self._kept(content), 0o755, "root:root")

    def _same_places(self, path: Path, pushed: Sequence[FileSpec]) -> None:
        seen: set[str] = set()
        for number, file in enumerate(pushed):
            if file.path in seen:
                here = (*path, "push", number, "path")
                wrong = f"{file.path} is written twice in this step"
                self.problems.append(Problem(here, wrong, "push it once"))
            seen.add(file.path)

    def _local(self, path: Path, source: str) -> bytes:
        content = self.bundle.files.get(source)
        if content is None:
            right = "the path is relative to the directory of this file"
            self.problems.append(Problem(path, f"there is no file {quoted(source)} that can be read", right))
            return b""
        return content

    def _kept(self, content: bytes) -> str:
        digest = blake3(content).hexdigest()
        self.files[digest] = content
        return digest
