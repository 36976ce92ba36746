"""The disks of this host compared, each comparison in a process of its own without rights."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from pydantic import TypeAdapter, ValidationError

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.units import format_size
from forkbed.core.diffs.limits import Limits
from forkbed.core.diffs.records import DiskDifference, FileSystemDifference, Reading, TextDifference
from forkbed.drivers import processes
from forkbed.drivers.filesystems.appliance import Appliance
from forkbed.drivers.filesystems.recognition import APPLIANCE
from forkbed.ports.disks import DiskQuestion, DiskVersion

_GRACE_S = 30.0  # what the worker may take beyond its own limit of time, which it checks now and then
_OPEN_FILES = 4096


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the worker says; exactly one of the three."""

    disk: DiskDifference | None = None
    texts: tuple[TextDifference, ...] | None = None
    error: str = ""


_ANSWER = TypeAdapter(_Answer)


@dataclass(frozen=True, slots=True)
class HostDisks:
    """`ports.disks.Disks` for layers that are files of this host."""

    appliance: Appliance

    def compare(self, question: DiskQuestion, subject: str) -> DiskDifference:
        selection = {"paths": question.selection.paths, "noise": question.selection.noise}
        answer = _ask(question, {"selection": selection}, subject)
        assert answer.disk is not None
        if not any(_for_appliance(one) for one in answer.disk.file_systems):
            return answer.disk
        versions = (question.base or question.left, question.left, question.right)
        return replace(
            answer.disk,
            file_systems=tuple(
                self.appliance.compare(one, versions, question.selection, question.limits, subject)
                if _for_appliance(one)
                else one
                for one in answer.disk.file_systems
            ),
        )

    def texts(self, question: DiskQuestion, subject: str, paths: Sequence[str]) -> Sequence[TextDifference]:
        answer = _ask(question, {"texts": list(paths)}, subject)
        assert answer.texts is not None
        return answer.texts


def _for_appliance(one: FileSystemDifference) -> bool:
    return one.reading is Reading.UNREADABLE and one.kind in APPLIANCE


def _ask(question: DiskQuestion, task: dict[str, object], subject: str) -> _Answer:
    completed = _run(question, task, subject, with_library=True)
    if completed.status < 0:  # a crash: of the library, if anything; the rest of the disk can still be read
        completed = _run(question, task, subject, with_library=False)
    try:
        answer = _ANSWER.validate_json(completed.stdout)
    except ValidationError as error:
        raise _failed(completed, question.limits, subject) from error
    if answer.error:
        raise OperationalError(
            Kind.FAULT,
            subject,
            f"its disk cannot be read: {answer.error}",
            "`forkbed doctor` looks at the host",
        )
    return answer


def _run(
    question: DiskQuestion, task: dict[str, object], subject: str, *, with_library: bool
) -> processes.Completed:
    limits = question.limits
    request = {
        "limits": asdict(limits),
        "versions": _versions(question),
        "with_library": with_library,
        **task,
    }
    return processes.run(
        _worker(limits),
        input=json.dumps(request).encode(),
        timeout_s=limits.seconds + _GRACE_S,
        accept=None,
        subject=subject,
        remedy="the disks themselves were not touched; ask for fewer paths, or for one machine",
    )


def _failed(completed: processes.Completed, limits: Limits, subject: str) -> OperationalError:
    reason = "the process that reads it failed"
    if b"MemoryError" in completed.stderr:
        reason = f"reading it takes more than {format_size(limits.memory_bytes)} of memory"
    elif completed.status < 0:
        reason = f"the process that reads it was ended by signal {-completed.status}"
    return OperationalError(
        Kind.FAULT,
        subject,
        f"its disk cannot be compared: {reason}",
        "the file system may be damaged: look at it within the machine",
        details=completed.complaint,
    )


def _versions(question: DiskQuestion) -> dict[str, list[dict[str, str]]]:
    versions = {"left": question.left, "right": question.right}
    if question.base is not None:
        versions["base"] = question.base
    return {name: _layers(version) for name, version in versions.items()}


def _layers(version: DiskVersion) -> list[dict[str, str]]:
    return [{"path": layer.path, "format": layer.format} for layer in version.layers]


def _worker(limits: Limits) -> Sequence[str]:
    bounds = (
        "prlimit",
        f"--as={limits.memory_bytes}",
        f"--cpu={int(limits.seconds + _GRACE_S)}",
        f"--nofile={_OPEN_FILES}",
        "--fsize=0",
        "--core=0",
        "--",
        "setpriv",
        "--no-new-privs",
        "--",
    )
    alone = (
        ("unshare", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--") if os.geteuid() == 0 else ()
    )
    return (*alone, *bounds, sys.executable, "-m", "forkbed.drivers.filesystems.worker")
