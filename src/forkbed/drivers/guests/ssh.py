"""Reach guests with OpenSSH's client from inside their network's namespace, over one kept connection each.

The kept connection is a process of its own that outlives the controller; a later one finds it by its socket. It
makes a command in a guest cost a few milliseconds instead of a whole handshake.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import threading
import time
from collections import defaultdict
from pathlib import Path

from forkbed.base.errors import OperationalError
from forkbed.base.ids import MachineId
from forkbed.drivers import processes
from forkbed.drivers.guests import scripts
from forkbed.drivers.guests.keys import KeyStore
from forkbed.drivers.guests.ssh_channel import SshChannel
from forkbed.drivers.guests.ssh_command import SshTarget, connection_failure, ssh_argv
from forkbed.ports.guests import CommandRequest

_CONNECT_TIMEOUT_S = 15.0
_POLL_S = 0.005
_END_TIMEOUT_S = 10.0


class SshAccess:
    """Kept connections and commands. Thread-safe."""

    def __init__(self, keys: KeyStore, runtime_dir: Path) -> None:
        """`runtime_dir` has to be short: a socket's path holds 107 characters, 17 of them ssh's own."""
        self._keys = keys
        self._directory = runtime_dir / "ssh"
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._locks: defaultdict[MachineId, threading.Lock] = defaultdict(threading.Lock)
        self._masters: dict[MachineId, processes.Process] = {}

    def target(self, machine_id: MachineId, instance_id: str, name: str, place: tuple[str, str]) -> SshTarget:
        """The guest at `place`, a namespace's path and an address in it."""
        namespace, address = place
        return SshTarget(
            subject=f"machine {name}",
            namespace=namespace,
            address=address,
            instance_id=instance_id,
            key=self._keys.login_key_path,
            known_hosts=self._keys.known_hosts_path(instance_id),
            control=self._control(machine_id),
        )

    def is_connected(self, machine_id: MachineId) -> bool:
        """Whether there is a kept connection; it may be stale for some seconds after the guest went away."""
        return _answers(self._control(machine_id))

    def connect(self, machine_id: MachineId, target: SshTarget) -> None:
        """Make the kept connection unless it is there. UNREACHABLE, or FAULT if the guest refuses us."""
        with self._locks[machine_id]:
            if _answers(target.control):
                return
            target.control.unlink(missing_ok=True)
            log = self._log()
            argv = ssh_argv(target, "-M", "-N", "-o", "ControlPersist=no", log=log)
            master = processes.spawn(processes.in_network_namespace(target.namespace, argv), own_session=True)
            try:
                self._await(master, target, log)
            finally:
                log.unlink(missing_ok=True)
            self._masters[machine_id] = master

    def open(self, machine_id: MachineId, target: SshTarget, request: CommandRequest) -> SshChannel:
        """Start a command over the kept connection, or over one of its own where the guest allows no more on it."""
        token = secrets.token_hex(8)
        if request.argv:
            script = scripts.command_script(request.argv, request.user, token)
        else:
            script = scripts.shell_script(request.user)
        self.connect(machine_id, target)
        log = self._log()
        terminal = "-T" if request.terminal is None else "-tt"
        return SshChannel(
            processes.in_network_namespace(target.namespace, (*ssh_argv(target, terminal, log=log), script)),
            target,
            log=log,
            terminal=request.terminal,
            end=lambda: self._end(target, token),
        )

    def retire(self, machine_id: MachineId) -> None:
        """Let new commands take a new connection; those that run keep the old one."""
        self._control_command(machine_id, "stop")

    def forget(self, machine_id: MachineId) -> None:
        """End the kept connection and every command that runs over it."""
        self._control_command(machine_id, "exit")
        master = self._masters.pop(machine_id, None)
        if master is not None:
            processes.kill_group(master)

    def _control_command(self, machine_id: MachineId, command: str) -> None:
        control = self._control(machine_id)
        with self._locks[machine_id]:
            if _answers(control):
                argv = ("ssh", "-F", "none", "-O", command, "-o", f"ControlPath={control}", "any")
                processes.run(argv, timeout_s=_END_TIMEOUT_S, accept=None)
            control.unlink(missing_ok=True)

    def _end(self, target: SshTarget, token: str) -> None:
        """End a command in the guest. If the guest cannot be reached there is nothing more we can do."""
        log = self._log()
        argv = (*ssh_argv(target, "-T", log=log), scripts.end_script(token))
        try:
            processes.run(
                processes.in_network_namespace(target.namespace, argv), timeout_s=_END_TIMEOUT_S, accept=None
            )
        except OperationalError:
            pass
        finally:
            log.unlink(missing_ok=True)

    def _await(self, master: processes.Process, target: SshTarget, log: Path) -> None:
        deadline = time.monotonic() + _CONNECT_TIMEOUT_S
        while not _answers(target.control):
            if master.poll() is not None:
                raise connection_failure(target, processes.last_lines(_content(log)))
            if time.monotonic() > deadline:
                processes.kill_group(master)
                waited = f"no log-in after {_CONNECT_TIMEOUT_S:g} s"
                raise connection_failure(target, (*processes.last_lines(_content(log)), waited))
            time.sleep(_POLL_S)

    def _control(self, machine_id: MachineId) -> Path:
        return self._directory / hashlib.sha256(machine_id.encode()).hexdigest()[:12]

    def _log(self) -> Path:
        return self._directory / f"{secrets.token_hex(6)}.log"


def _answers(control: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(control))
        except OSError:
            return False
        return True


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
