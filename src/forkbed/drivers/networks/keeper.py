"""What keeps the programs of one network running, whether or not Forkbed runs: its dnsmasq, a fork's recorder.

`keep-program` is a shell script in a session of its own, one for each program. It is found again by its process id and
start time; what a crash left without such a note is found by its arguments.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import liveness, processes
from forkbed.drivers.liveness import ProcessId
from forkbed.drivers.networks.records import holds, replace_file, write_if_changed

_SCRIPT = "keep-program"
_BLOCK_BYTES = 512
_START_LIMIT_S = 10.0
_GRACE_S = 3.0
_LOOK_AGAIN_S = 0.003


@dataclass(frozen=True, slots=True)
class Program:
    """A program to be kept, and its files by name, all in the network's directory.

    It writes its process id into `pid` when it serves. It is started as `command`, whose last word is prolonged by the
    path of its `configuration`: so it is known. The files in `read_again` it reads anew when told (HUP); it has read
    them at first when `has_read` is in its log.
    """

    name: str
    command: tuple[str, ...]
    configuration: str
    pid: str
    keeper_pid: str
    log: str
    largest_file_bytes: int
    read_again: frozenset[str] = frozenset()
    has_read: str = ""


@dataclass(frozen=True, slots=True)
class Keeper:
    """The keeper of `program`, with its files in `directory`, in the network namespace with the path `namespace`."""

    program: Program
    directory: Path
    namespace: Path
    subject: str

    def ensure(self, files: Mapping[str, str]) -> bool:
        """Have the program run with these files; returns whether anything changed.

        Files that it reads again change without a pause in its service; other changes need a new start.
        """
        if self.begin(files):
            self.await_service()
            return True
        return self._tell(files)

    def begin(self, files: Mapping[str, str]) -> bool:
        """Start the program if it does not run with these files, but for those that it reads again.

        Returns whether it was started; it may not serve yet.
        """
        fixed = {name: text for name, text in files.items() if name not in self.program.read_again}
        if self.is_healthy() and all(holds(self.directory / name, text) for name, text in fixed.items()):
            return False
        self.stop()  # before the files are written: what runs with others must not pass for up to date
        for name, text in files.items():
            write_if_changed(self.directory / name, text)
        self._start()
        return True

    def is_healthy(self) -> bool:
        """Whether the keeper and its program run."""
        keeper = self._running()
        return keeper is not None and self._has_child(keeper)

    def ensure_absent(self) -> bool:
        """End the program and remove its configuration, if there is one; returns whether there was."""
        if not self._configuration.exists():
            return False
        self.stop()
        self._configuration.unlink()
        return True

    def stop(self) -> bool:
        """End the keeper and its program, strays of a crash too; returns whether there were any."""
        noted = self._running()
        found = ([noted] if noted else []) + self._strays()
        for process in found:
            liveness.end(process, grace_s=_GRACE_S)
        if found:  # a keeper that had to be killed leaves its child behind
            for process in self._strays():
                liveness.end(process, grace_s=_GRACE_S)
        for name in (self.program.keeper_pid, self.program.pid):
            (self.directory / name).unlink(missing_ok=True)
        return bool(found)

    def _tell(self, files: Mapping[str, str]) -> bool:
        """Have the running program read again what differs; returns whether anything did."""
        changed = {name for name, text in files.items() if write_if_changed(self.directory / name, text)}
        if not changed:
            return False
        keeper = self._running()
        if keeper is not None:
            liveness.send(keeper, signal.SIGHUP)
        return True

    def _start(self) -> None:
        script = self.directory / _SCRIPT
        # A copy: the script that runs must not change under the shell when Forkbed is upgraded.
        write_if_changed(script, Path(__file__).with_name(_SCRIPT).read_text())
        limit = str(self.program.largest_file_bytes // _BLOCK_BYTES)
        *words, last = self.program.command
        command: list[processes.Argument] = ["/bin/sh", script, limit, *words, f"{last}{self._configuration}"]
        self._log.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            process = processes.spawn(
                processes.in_network_namespace(self.namespace, command),
                stdout=log,
                stderr=processes.STDOUT,
                own_session=True,
            )
        identity = liveness.identify(process.pid)
        if identity is not None:
            replace_file(self.directory / self.program.keeper_pid, f"{identity}\n")

    def await_service(self) -> None:
        """Wait until the program has its sockets (it writes its pid file after that) and has read its files.

        Before that it ignores the signal to read them again, and would miss the next change.
        """
        keeper = self._noted()  # it may be on its way into the namespace
        deadline = time.monotonic() + _START_LIMIT_S
        while keeper is None or not (self._has_child(keeper) and self._has_read_files()):
            if keeper is None or not liveness.is_alive(keeper) or time.monotonic() > deadline:
                self.stop()
                raise OperationalError(
                    Kind.FAULT,
                    self.subject,
                    f"{self.program.name} does not start",
                    "`forkbed doctor` tells what this host lacks",
                    details=processes.last_lines(self._log.read_bytes()),
                )
            time.sleep(_LOOK_AGAIN_S)

    def _running(self) -> ProcessId | None:
        noted = self._noted()
        return noted if noted is not None and self._is_inside(noted) else None

    def _noted(self) -> ProcessId | None:
        try:
            noted = ProcessId.parse((self.directory / self.program.keeper_pid).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return noted if liveness.is_alive(noted) else None

    def _is_inside(self, process: ProcessId) -> bool:
        """Whether it is in the namespace of that name now: one of that name may have been made anew."""
        try:
            own = Path(f"/proc/{process.pid}/ns/net").stat()
            return os.path.samestat(own, self.namespace.stat())
        except (FileNotFoundError, ProcessLookupError):
            return False

    def _has_child(self, keeper: ProcessId) -> bool:
        """Whether the process that the program's pid file names is the keeper's child."""
        try:
            child = int((self.directory / self.program.pid).read_text())
            status = Path(f"/proc/{child}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return False
        state, parent = status[status.rindex(")") + 2 :].split()[:2]
        return int(parent) == keeper.pid and state not in {"Z", "X"}

    def _has_read_files(self) -> bool:
        return self.program.has_read.encode() in self._log.read_bytes()

    def _strays(self) -> list[ProcessId]:
        """Every process with our configuration among its arguments."""
        own = str(self._configuration).encode()
        arguments = {own, self.program.command[-1].encode() + own}
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if arguments & set((entry / "cmdline").read_bytes().split(b"\0")):
                    identity = liveness.identify(int(entry.name))
                    found += [identity] if identity else []
        return found

    @property
    def _configuration(self) -> Path:
        return self.directory / self.program.configuration

    @property
    def _log(self) -> Path:
        return self.directory / self.program.log
