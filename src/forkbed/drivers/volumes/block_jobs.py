"""Folds done by QEMU's block layer on files that no machine uses: a storage daemon for one job.

The same jobs as a running machine's (`block-commit`, `block-stream`), on a chain that is told in full, so that no
header is followed. QEMU's file locks refuse what a machine has open.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, assert_never

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.volumes.layers import Commit, Fold, Pull
from forkbed.drivers import processes
from forkbed.drivers.volumes.layer_files import MAKE_ROOM, opened_as
from forkbed.drivers.volumes.records import LayerFile
from forkbed.ports.progress import Cancelled, Progress

_JOB = "fold"
_LOOK_EVERY_S = 0.2  # at first much shorter: most folds are small
_FIRST_LOOK_S = 0.002
_ANSWER_TIMEOUT_S = 300.0  # it may have to flush much
_READ_BYTES = 65536


def fold_files(layers: Sequence[LayerFile], fold: Fold, *, subject: str, progress: Progress) -> None:
    """Do the fold on the chain `layers`, active first, and wait for its end; then all is flushed.

    CONFLICT if a machine uses the files, FAULT if it fails; `Cancelled` passes through. In any case the chain as it
    was shows what it showed before.
    """
    with _daemon(subject) as daemon:
        nodes = daemon.open_chain(layers)
        daemon.ask(*job(nodes, fold))
        daemon.await_job(progress)


def job(nodes: dict[str, str], fold: Fold) -> tuple[str, dict[str, Any]]:
    """The command that begins the fold, with its arguments. `nodes` are the chain's by path, active first."""
    active = next(iter(nodes.values()))
    arguments: dict[str, Any] = {"job-id": _JOB, "device": active, "auto-dismiss": False}
    match fold:
        case Commit(top, into):
            arguments |= {"top-node": nodes[top], "base-node": nodes[into], "backing-file": into}
            return "block-commit", arguments
        case Pull(keep):
            if keep:
                arguments |= {"base-node": nodes[keep], "backing-file": keep}
            return "block-stream", arguments
        case _:
            assert_never(fold)


class _Daemon:
    """A storage daemon that is spoken to through its standard input and output."""

    def __init__(self, process: processes.Process, subject: str) -> None:
        self._process = process
        self._subject = subject
        self._unread = b""
        self._heard()  # the greeting
        self.ask("qmp_capabilities", {})

    def ask(self, command: str, arguments: dict[str, Any]) -> Any:
        """The command's answer. CONFLICT if a lock is in the way, FAULT if it is refused or nobody answers."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then there is no answer either, and that is told below
            self._process.stdin.write(
                json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
            )
            self._process.stdin.flush()
        while "event" in (answer := self._heard()):
            pass
        if "error" in answer:
            raise self._failed(f"{command}: {answer['error'].get('desc', answer['error'])}")
        return answer.get("return")

    def open_chain(self, layers: Sequence[LayerFile]) -> dict[str, str]:
        """Open all layers, the first one writable; the nodes' names by path, the first one first."""
        names = {layer.path: f"layer{number}" for number, layer in enumerate(layers)}
        below: str | None = None
        for layer in reversed(layers):
            options = opened_as([layer]) | {
                "node-name": names[layer.path],
                "read-only": layer is not layers[0],
                "discard": "unmap",
            }
            if "backing" in options:
                options["backing"] = below
            self.ask("blockdev-add", options)
            below = names[layer.path]
        return names

    def await_job(self, progress: Progress) -> None:
        """Wait for the job's end."""
        pause_s = _FIRST_LOOK_S
        while True:
            (seen,) = self.ask("query-jobs", {})
            if seen["status"] == "concluded":
                break
            progress.check_cancelled()
            total = seen["total-progress"]
            progress.tell("folding layers", done=seen["current-progress"] / total if total else None)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LOOK_EVERY_S)
        if "error" in seen:
            raise self._failed(seen["error"])
        self.ask("job-dismiss", {"id": _JOB})

    def end(self) -> None:
        """Have it close its files, which flushes them, and end."""
        self.ask("quit", {})
        while self._read():
            pass
        if self._process.wait(_ANSWER_TIMEOUT_S) != 0:
            raise self._failed("it could not close the layers")

    def _heard(self) -> dict[str, Any]:
        while b"\n" not in self._unread:
            read = self._read()
            if not read:
                raise self._failed("the storage daemon ended without an answer")
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        heard = json.loads(line)
        assert isinstance(heard, dict)
        return heard

    def _read(self) -> bytes:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], _ANSWER_TIMEOUT_S)
        if not readable:
            raise OperationalError(
                Kind.UNREACHABLE,
                self._subject,
                f"its layers cannot be folded: the storage daemon did not answer within {_ANSWER_TIMEOUT_S:g} s",
                "look at the disk; its content is as it was",
            )
        return os.read(self._process.stdout.fileno(), _READ_BYTES)

    def _failed(self, reason: str) -> OperationalError:
        if "Failed to get" in reason and "lock" in reason:
            return OperationalError(
                Kind.CONFLICT,
                self._subject,
                "its layers cannot be folded at rest while a machine uses them",
                "stop the machine, or fold while it runs",
                details=(reason,),
            )
        return OperationalError(
            Kind.FAULT,
            self._subject,
            f"its layers cannot be folded: {reason}",
            f"its content is as it was, so try again; {MAKE_ROOM}",
        )


@contextmanager
def _daemon(subject: str) -> Iterator[_Daemon]:
    process = processes.spawn(
        ["qemu-storage-daemon", "--chardev", "stdio,id=qmp", "--monitor", "chardev=qmp"],
        stdin=processes.PIPE,
        stdout=processes.PIPE,
        own_session=True,
    )
    try:
        daemon = _Daemon(process, subject)
        try:
            yield daemon
        except (OperationalError, Cancelled):
            with suppress(OperationalError):  # it may be what failed
                daemon.end()
            raise
        daemon.end()
    finally:
        if process.poll() is None:
            processes.kill_group(process)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
