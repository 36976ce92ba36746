"""The process that keeps one network's dnsmasq running, whether or not Forkbed runs.

`keep-dnsmasq` is a shell script in a session of its own. It is found again by its process id and start time; what a
crash left without such a note is found by its arguments.
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
from forkbed.drivers.networks import dnsmasq
from forkbed.drivers.networks.records import replace_file, write_if_changed

_SCRIPT = "keep-dnsmasq"
_PID = "keeper.pid"
_LOG = "dnsmasq.log"
_START_LIMIT_S = 10.0
_GRACE_S = 3.0
_LOOK_AGAIN_S = 0.003


@dataclass(frozen=True, slots=True)
class Keeper:
    """The keeper whose files are in `directory`, in the network namespace with the path `namespace`."""

    directory: Path
    namespace: Path
    subject: str

    def ensure(self, files: Mapping[str, str]) -> bool:
        """Have dnsmasq run with these files; returns whether anything changed.

        Changed names and addresses are read without a pause in its service; other changes need a new start.
        """
        changed = {name for name, text in files.items() if write_if_changed(self.directory / name, text)}
        keeper = self._running()
        if keeper is None or not self._has_child(keeper) or changed - dnsmasq.READ_AGAIN:
            self.stop()
            self._start()
            return True
        if changed:
            liveness.send(keeper, signal.SIGHUP)
        return bool(changed)

    def is_healthy(self) -> bool:
        """Whether the keeper and its dnsmasq run."""
        keeper = self._running()
        return keeper is not None and self._has_child(keeper)

    def stop(self) -> bool:
        """End the keeper and its dnsmasq, strays of a crash too; returns whether there were any."""
        noted = self._running()
        found = ([noted] if noted else []) + self._strays()
        for process in found:
            liveness.end(process, grace_s=_GRACE_S)
        # A keeper that had to be killed leaves its child behind.
        for process in self._strays():
            liveness.end(process, grace_s=_GRACE_S)
        for name in (_PID, dnsmasq.PID):
            (self.directory / name).unlink(missing_ok=True)
        return bool(found)

    def _start(self) -> None:
        script = self.directory / _SCRIPT
        # A copy: the script that runs must not change under the shell when Forkbed is upgraded.
        write_if_changed(script, Path(__file__).with_name(_SCRIPT).read_text())
        (self.directory / _LOG).unlink(missing_ok=True)
        with (self.directory / _LOG).open("ab") as log:
            process = processes.spawn(
                processes.in_network_namespace(self.namespace, ["/bin/sh", script, self._configuration]),
                stdout=log,
                stderr=processes.STDOUT,
                own_session=True,
            )
        identity = liveness.identify(process.pid)
        if identity is not None:
            replace_file(self.directory / _PID, f"{identity}\n")
        self._await_child(identity)

    def _await_child(self, keeper: ProcessId | None) -> None:
        """Wait until dnsmasq has its sockets (it writes its pid file after that) and has read its files.

        Before that it ignores the signal to read them again, and would miss the next change.
        """
        deadline = time.monotonic() + _START_LIMIT_S
        while keeper is None or not (self._has_child(keeper) and self._has_read_files()):
            if keeper is None or not liveness.is_alive(keeper) or time.monotonic() > deadline:
                self.stop()
                raise OperationalError(
                    Kind.FAULT,
                    self.subject,
                    "dnsmasq does not start",
                    "`forkbed doctor` tells what this host lacks",
                    details=processes.last_lines((self.directory / _LOG).read_bytes()),
                )
            time.sleep(_LOOK_AGAIN_S)

    def _running(self) -> ProcessId | None:
        try:
            noted = ProcessId.parse((self.directory / _PID).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return noted if liveness.is_alive(noted) and self._is_inside(noted) else None

    def _is_inside(self, process: ProcessId) -> bool:
        """Whether it is in the namespace of that name now: one of that name may have been made anew."""
        try:
            own = Path(f"/proc/{process.pid}/ns/net").stat()
            return os.path.samestat(own, self.namespace.stat())
        except (FileNotFoundError, ProcessLookupError):
            return False

    def _has_child(self, keeper: ProcessId) -> bool:
        """Whether the process that dnsmasq's pid file names is the keeper's child."""
        try:
            child = int((self.directory / dnsmasq.PID).read_text())
            status = Path(f"/proc/{child}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return False
        state, parent = status[status.rindex(")") + 2 :].split()[:2]
        return int(parent) == keeper.pid and state not in {"Z", "X"}

    def _has_read_files(self) -> bool:
        return f"read {self.directory / dnsmasq.HOSTS}".encode() in (self.directory / _LOG).read_bytes()

    def _strays(self) -> list[ProcessId]:
        """Every process with our configuration file among its arguments."""
        own = str(self._configuration).encode()
        arguments = {own, b"--conf-file=" + own}
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
        return self.directory / dnsmasq.CONFIGURATION
