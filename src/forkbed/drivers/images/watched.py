"""Commands that take long: they can be cancelled, and nothing of them outlives this process.

Promises: the command runs in mount and PID namespaces of its own and dies with the thread that started it, so
its mounts, loop devices and children go too, however it ends; its output is kept in a log file.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import processes
from forkbed.ports.progress import Progress

_POLL_S = 0.05
_TAIL_BYTES = 8000
_CONTAINER = (
    *("unshare", "--mount", "--propagation", "private"),
    *("--pid", "--fork", "--kill-child", "--mount-proc", "--"),
)


def run_contained(
    argv: Sequence[processes.Argument],
    *,
    log: Path,
    subject: str,
    progress: Progress,
    timeout_s: float = 1800.0,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run `argv` to its end, its output appended to `log`.

    Raises FAULT with the end of the output if it fails, UNREACHABLE after `timeout_s`, `Cancelled` if the
    operation is cancelled; the last two kill it and everything it started first.
    """
    contained = processes.dying_with_parent((*_CONTAINER, *argv))
    deadline = time.monotonic() + timeout_s
    with log.open("ab") as output:
        began_at = output.tell()
        process = processes.spawn(
            contained, stdout=output, stderr=processes.STDOUT, environment=environment, own_session=True
        )
        try:
            while process.poll() is None:
                progress.check_cancelled()
                if time.monotonic() > deadline:
                    raise OperationalError(
                        Kind.UNREACHABLE,
                        subject,
                        f"no end after {timeout_s:g} s",
                        details=_tail(log, began_at),
                    )
                time.sleep(_POLL_S)
        finally:
            processes.kill_group(process)
    if process.returncode != 0:
        said = _tail(log, began_at)
        how = (
            f"exit status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        )
        raise OperationalError(
            Kind.FAULT, subject, f"failed with {how}" + (f": {said[-1]}" if said else ""), details=said
        )


def _tail(log: Path, began_at: int) -> tuple[str, ...]:
    with log.open("rb") as stream:
        stream.seek(max(began_at, log.stat().st_size - _TAIL_BYTES))
        return processes.last_lines(stream.read())
