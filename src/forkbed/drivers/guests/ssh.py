"""Reach guests with OpenSSH's client from inside their network's namespace, over one kept connection each.

The kept connection is a process of its own that outlives the controller; a later one finds it by its socket. It
makes a command in a guest cost a few milliseconds instead of a whole handshake.

With OpenSSH's server a connection carries several commands. With any other it carries one at a time: dropbear closes a
command that begins while another one ends, without its output or status (measured: up to 9 of 16 at once). A command
that finds the kept connection full gets one of its own, which ends with it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import threading
import time
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import count
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId
from forkbed.core.systems.spec import ResolvedMachine
from forkbed.drivers import processes
from forkbed.drivers.guests import scripts
from forkbed.drivers.guests.keys import KeyStore
from forkbed.drivers.guests.ssh_channel import SshChannel
from forkbed.drivers.guests.ssh_command import SshTarget, connection_failure, ssh_argv
from forkbed.drivers.guests.trailer import StatusTrailer
from forkbed.ports.guests import CommandRequest

_CONNECT_TIMEOUT_S = 15.0
_POLL_S = 0.005
_END_TIMEOUT_S = 10.0
_COMMANDS_ON_SHARED = 8  # OpenSSH's server allows 10 unless told otherwise
_LONGEST_DIRECTORY = (
    107 - len("/0123456789ab-99") - len(".0123456789abcdef")
)  # a socket's name, while ssh makes it
_SHARING_SERVER = "OpenSSH"


class SshAccess:
    """Kept connections and commands. Thread-safe."""

    def __init__(self, keys: KeyStore, runtime_dir: Path) -> None:
        """`runtime_dir` has to be short. INVALID if it is not."""
        self._keys = keys
        self._directory = runtime_dir / "ssh"
        if len(os.fsencode(self._directory)) > _LONGEST_DIRECTORY:
            raise OperationalError(
                Kind.INVALID,
                str(self._directory),
                f"is too long for sockets: at most {_LONGEST_DIRECTORY} bytes",
                "set FORKBED_RUNTIME_DIR to a shorter path",
            )
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = threading.Lock()
        self._locks: defaultdict[MachineId, threading.Lock] = defaultdict(threading.Lock)
        # How many commands each connection carries, by number; 0 is the kept one.
        self._carried: defaultdict[MachineId, Counter[int]] = defaultdict(Counter)
        self._masters: dict[Path, processes.Process] = {}  # by the connection's socket

    def target(self, machine: ResolvedMachine, place: tuple[str, str], greeting: str) -> SshTarget:
        """The guest at `place`, a namespace's path and an address in it, whose server greets like that."""
        namespace, address = place
        return SshTarget(
            subject=f"machine {machine.name}",
            namespace=namespace,
            address=address,
            instance_id=machine.instance_id,
            key=self._keys.login_key_path,
            known_hosts=self._keys.known_hosts_path(machine.instance_id),
            control=self._control(machine.id, 0),
            shared=_SHARING_SERVER in greeting,
        )

    def is_connected(self, machine_id: MachineId) -> bool:
        """Whether there is a kept connection; it may be stale for some seconds after the guest went away."""
        return _answers(self._control(machine_id, 0))

    def connect(self, machine_id: MachineId, target: SshTarget) -> None:
        """Make the target's connection unless it is there. UNREACHABLE, or FAULT if the guest refuses us."""
        with self._locks[machine_id]:  # one handshake at a time: a server may turn away more
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
            self._masters[target.control] = master

    def open(self, machine_id: MachineId, target: SshTarget, request: CommandRequest) -> SshChannel:
        """Start a command. UNREACHABLE, or FAULT if the guest refuses us."""
        token = secrets.token_hex(8)
        if request.argv:
            script = scripts.command_script(
                request.argv, request.user, token, terminal=request.terminal is not None
            )
        else:
            script = scripts.shell_script(request.user, request.mark)
        number = self._take(machine_id, shared=target.shared)
        target = replace(target, control=self._control(machine_id, number))
        log = self._log()
        try:
            self.connect(machine_id, target)
            options = "-T" if request.terminal is None else "-tt"
            argv = (*ssh_argv(target, options, log=log), script)
            return SshChannel(
                processes.in_network_namespace(target.namespace, argv),
                target,
                log=log,
                trailer=StatusTrailer(token),
                terminal=request.terminal,
                end=lambda: self._end(target, token),
                released=lambda: self._release(machine_id, number),
            )
        except BaseException:
            self._release(machine_id, number)
            raise

    def retire(self, machine_id: MachineId) -> None:
        """Let new commands take a new connection; one that runs keeps the old one."""
        with self._locks[machine_id]:
            self._control_command(self._control(machine_id, 0), "stop")

    def forget(self, machine_id: MachineId) -> None:
        """End every connection to the machine, and every command that runs over them."""
        with self._locks[machine_id]:
            kept = self._control(machine_id, 0)
            for control in [kept, *self._directory.glob(f"{kept.name}-*")]:
                self._close(control)

    def _take(self, machine_id: MachineId, *, shared: bool) -> int:
        """The number of a connection that has room: the kept one, else one of the command's own."""
        most = _COMMANDS_ON_SHARED if shared else 1
        with self._lock:
            carried = self._carried[machine_id]
            number = next(number for number in count() if carried[number] < (1 if number else most))
            carried[number] += 1
            return number

    def _release(self, machine_id: MachineId, number: int) -> None:
        if number:
            self._close(self._control(machine_id, number))
        with self._lock:
            self._carried[machine_id][number] -= 1

    def _close(self, control: Path) -> None:
        self._control_command(control, "exit")
        master = self._masters.pop(control, None)
        if master is not None:
            processes.kill_group(master)

    def _control_command(self, control: Path, command: str) -> None:
        if _answers(control):
            argv = ("ssh", "-F", "none", "-O", command, "-o", f"ControlPath={control}", "any")
            processes.run(argv, timeout_s=_END_TIMEOUT_S, accept=None)
        control.unlink(missing_ok=True)

    def _end(self, target: SshTarget, token: str) -> None:
        """End a command in the guest. If the guest cannot be reached there is nothing more we can do.

        A connection that is not shared ends too: the next command on it could begin while this one is still ending.
        """
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
            if not target.shared:
                self._close(target.control)

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

    def _control(self, machine_id: MachineId, number: int) -> Path:
        name = hashlib.sha256(machine_id.encode()).hexdigest()[:12]
        return self._directory / (f"{name}-{number}" if number else name)

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
