"""The process that lets machines go on when whoever froze them died or hangs.

`python -m forkbed.drivers.libvirt.guard DIRECTORY URI`, in a session of its own, started before the first pause if
none is alive. It reads the notes in DIRECTORY (see `pauses`), and ends by itself when there was none for a while.
Killed, it is started anew at the next cut; until then whoever made the cut still lets go what it froze.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import structlog

from forkbed.base.errors import Kind, OperationalError
from forkbed.config.log import configure_log
from forkbed.drivers import liveness, processes
from forkbed.drivers.durable import write_durably
from forkbed.drivers.libvirt.connection import Connection, Event
from forkbed.drivers.libvirt.pauses import Pause, Pauses, Phase
from forkbed.drivers.libvirt.releasing import Release
from forkbed.drivers.liveness import ProcessId

T = TypeVar("T")
_PID, _LOCK, _LOG = "guard.pid", "guard.lock", "guard.log"
_START_LIMIT_S = 20.0
_LOOK_AGAIN_S = 0.1
_LOOK_FOR_START_S = 0.01
_CALL_LIMIT_S = 5.0
_IDLE_S = 300.0
_log = structlog.get_logger(__name__)


def ensure_guard(directory: Path, uri: str) -> None:
    """Have a guard live that reads the notes in this directory. FAULT if it does not start."""
    if guard_process(directory) is not None:
        return
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    deadline = time.monotonic() + _START_LIMIT_S
    process: processes.Process | None = None
    while guard_process(directory) is None:
        if process is None or process.poll() == 0:
            # One that ended well left the work to another one, which may just be ending.
            process = _spawn(directory, uri)
        elif process.poll() is not None or time.monotonic() > deadline:
            raise OperationalError(
                Kind.FAULT,
                "guard",
                "the process that watches over frozen machines does not start, so none is frozen",
                "look at what it says",
                details=processes.last_lines((directory / _LOG).read_bytes()),
            )
        time.sleep(_LOOK_FOR_START_S)


def guard_process(directory: Path) -> ProcessId | None:
    """The guard that reads the notes in this directory; None if none lives."""
    try:
        noted = ProcessId.parse((directory / _PID).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return noted if liveness.is_alive(noted) else None


def _spawn(directory: Path, uri: str) -> processes.Process:
    with (directory / _LOG).open("ab") as log:
        log.truncate(0)
        return processes.spawn(
            [sys.executable, "-m", __name__, directory, uri],
            stdout=log,
            stderr=processes.STDOUT,
            own_session=True,
        )


class Guard:
    """Watches the notes of one directory."""

    def __init__(self, directory: Path, uri: str) -> None:
        self._directory = directory
        self._pauses = Pauses(directory)
        self._connection = Connection(uri, _nothing)
        self._frozen_since: dict[str, float] = {}
        self._at_work: dict[str, threading.Thread] = {}

    def run(self) -> None:
        """Watch until there was nothing to watch for a while."""
        self._announce()
        idle_since = time.monotonic()
        while self._directory.exists():
            pauses = self._pauses.all()
            now = time.monotonic()
            self._forget_all_but({pause.name for pause in pauses})
            for pause in pauses:
                if pause.phase is not Phase.GIVEN_UP:
                    self._look_at(pause, now)
            if pauses:
                idle_since = now
            elif now - idle_since > _IDLE_S:
                # In this order: a cut writes its note first and looks for the guard then.
                (self._directory / _PID).unlink(missing_ok=True)
                if not self._pauses.all():
                    return
                self._announce()
            time.sleep(_LOOK_AGAIN_S)

    def _announce(self) -> None:
        own = liveness.identify(os.getpid())
        write_durably(self._directory / _PID, f"{own}\n".encode())

    def _forget_all_but(self, names: set[str]) -> None:
        self._frozen_since = {name: since for name, since in self._frozen_since.items() if name in names}
        self._at_work = {name: thread for name, thread in self._at_work.items() if name in names}

    def _look_at(self, pause: Pause, now: float) -> None:
        worker = self._at_work.get(pause.name)
        if worker is not None and worker.is_alive():
            return
        if pause.phase is Phase.STANDBY:
            self._frozen_since.pop(pause.name, None)
        since = self._frozen_since.setdefault(pause.name, now)
        orphan = not pause.note.owner_lives
        late = pause.phase is not Phase.STANDBY and now - since > pause.note.limit_s
        if not orphan and not late:
            return
        if pause.phase is Phase.FROZEN and not pause.move(Phase.RELEASE):
            return  # just now it went on, or was given up
        _log.warning("guard.acts", purpose=pause.note.purpose, phase=str(pause.phase), orphan=orphan)
        worker = threading.Thread(target=Release(pause, self._call).run, daemon=True)
        self._at_work[pause.name] = worker
        worker.start()

    def _call(self, subject: str, action: str, function: Callable[[Any], T]) -> T:
        return self._connection.call(function, subject=subject, action=action, timeout_s=_CALL_LIMIT_S)


def main(arguments: Sequence[str]) -> int:
    """The process: directory of the notes and libvirt's URI as arguments."""
    directory, uri = Path(arguments[0]), arguments[1]
    configure_log(os.environ)
    with (directory / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0  # there is one already
        Guard(directory, uri).run()
    return 0


def _nothing(_event: Event) -> None:
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
