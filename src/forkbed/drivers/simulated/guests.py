"""`ports.guests` in memory: guests that answer once they are up, and a small shell of fixed commands."""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Self

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId
from forkbed.core.systems.spec import ProbeSpec, ResolvedMachine, SetupSpec, SetupWhen
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import Power
from forkbed.drivers.simulated.world import SimulatedMachine, SimulatedWorld
from forkbed.ports.guests import CommandRequest, GuestAddress, ProbeAnswer, SeedContent
from forkbed.ports.hypervisor import DiskAttachment
from forkbed.ports.progress import Progress

_POLL_S = 0.2


class SimulatedGuests:
    """Guests of the simulated world, as `Guests` and `Awakening`."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world

    def seed(self, machine: ResolvedMachine, content: SeedContent, digest: str) -> Effect:
        """Note the seed."""
        self._world.call("guests.seed", machine.name)
        with self._world.lock:
            before = self._world.seeds.get(machine.id)
            self._world.seeds[machine.id] = digest
        return Effect.ALREADY if before == digest else Effect.CHANGED

    def seed_attachment(self, machine: ResolvedMachine) -> DiskAttachment:
        """A path that leads nowhere."""
        return DiskAttachment("seed", f"/simulated/{machine.id}.iso", "raw", read_only=True)

    def seed_digests(self) -> Mapping[MachineId, str]:
        """All seeds."""
        with self._world.lock:
            return dict(self._world.seeds)

    def remove_seed(self, machine_id: MachineId) -> Effect:
        """Forget a seed."""
        self._world.call("guests.remove_seed", machine_id)
        with self._world.lock:
            return Effect.CHANGED if self._world.seeds.pop(machine_id, None) else Effect.ALREADY

    def await_reachable(self, address: GuestAddress, timeout_s: float, progress: Progress) -> str:
        """Wait until the guest is up."""
        name = address.machine.name
        self._world.call("guests.await_reachable", name)
        deadline = self._world.clock.now() + timeout_s
        while self._world.clock.now() < deadline:
            if self._answers(address.machine):
                return "ssh"
            progress.check_cancelled()
            self._world.clock.sleep(_POLL_S)
        raise OperationalError(
            Kind.UNREACHABLE, f"machine {name}", f"did not answer within {timeout_s:.0f} s"
        )

    def seed_failure(self, address: GuestAddress) -> str:
        """As the world says."""
        return self._world.seed_failures.get(address.machine.name, "")

    def run_setup(self, address: GuestAddress, commands: Sequence[SetupSpec], progress: Progress) -> None:
        """Note each command as done; a command `false` fails."""
        machine_id, machine = address.machine.id, self._find(address.machine)
        for command in commands:
            self._world.call("guests.run_setup", f"{address.machine.name}: {command.command}")
            once = command.when is SetupWhen.ONCE
            mark = f"setup/{sha256(f'{command}'.encode()).hexdigest()}"
            with self._world.lock:
                if mark in (self._world.read(machine_id, "root") if once else machine.memory):
                    continue
            progress.tell(command.command)
            if command.command == "false":
                raise OperationalError(
                    Kind.FAULT, f"machine {address.machine.name}", "setup command `false` ended with status 1"
                )
            with self._world.lock:
                if once:
                    self._world.write(machine_id, "root", mark, "done")
                else:
                    machine.memory[mark] = "done"
                machine.console += f"+ {command.command}\r\n".encode()

    def probe(self, address: GuestAddress, probe: ProbeSpec) -> ProbeAnswer:
        """Good once the guest is up."""
        self._world.call("guests.probe", address.machine.name)
        if probe.command in self._world.bad_probes:
            return ProbeAnswer(False, "status 1")
        good = self._answers(address.machine)
        return ProbeAnswer(good, "" if good else "connection refused")

    def open_command(self, address: GuestAddress, request: CommandRequest) -> SimulatedCommand:
        """Run one of `echo`, `cat`, `hostname`, `true`, `false`, `exit N`; anything else is not found.

        A shell knows these too, and `write NAME WORD`, which writes to the root disk.
        """
        if not self._answers(address.machine):
            raise OperationalError(
                Kind.UNREACHABLE, f"machine {address.machine.name}", "does not answer", "is it running?"
            )
        machine_id = address.machine.id

        def write(name: str, word: str) -> None:
            self._world.call("guests.write", f"{address.machine.name}: {name}")
            with self._world.lock:
                self._world.write(machine_id, "root", name, word)

        return SimulatedCommand(address.machine.name, request, write)

    def forget(self, machine_id: MachineId) -> None:
        """There is nothing to forget."""

    def awaken(self, machine: ResolvedMachine, now: float, entropy: bytes, timeout_s: float) -> str:
        """Note in its memory what it was told."""
        self._world.call("guests.awaken", machine.name)
        deadline = self._world.clock.now() + timeout_s
        while not self._answers(machine):
            if self._world.clock.now() >= deadline:
                return f"the guest agent does not answer within {timeout_s:g} s: clock and randomness are as they were"
            self._world.clock.sleep(_POLL_S)
        with self._world.lock:
            memory = self._find(machine).memory
            memory["clock"] = repr(now)
            memory["entropy"] = sha256(memory.get("entropy", "").encode() + entropy).hexdigest()
        return ""

    def _find(self, machine: ResolvedMachine) -> SimulatedMachine:
        with self._world.lock:
            found = self._world.machines.get(machine.id)
        if found is None:
            raise OperationalError(Kind.NOT_FOUND, f"machine {machine.name}", "is not defined on this host")
        return found

    def _answers(self, machine: ResolvedMachine) -> bool:
        with self._world.lock:
            self._world.settle()
            found = self._find(machine)
            return (
                found.power is Power.RUNNING
                and machine.name not in self._world.deaf
                and self._world.clock.now() >= found.answers_at
            )


class SimulatedCommand:
    """A command whose whole answer is known at once, except for `cat`."""

    def __init__(self, machine_name: str, request: CommandRequest, write: Callable[[str, str], None]) -> None:
        self._output: deque[tuple[str, bytes]] = deque()
        self._open = False
        self._status = 0
        self._write = write
        self._pushed = ""  # the file that input goes to
        self._run(machine_name, request.argv)

    def _run(self, machine_name: str, argv: tuple[str, ...]) -> None:
        match argv:
            case ("/bin/sh", "-c", _, "sh", path, _, _):
                self._pushed = path
            case ("/bin/sh", "-c", script):
                self._run(machine_name, tuple(shlex.split(script)))
            case ("write", name, word):
                self._write(name, word)
            case ("echo", *words):
                self._output.append(("stdout", " ".join(words).encode() + b"\n"))
            case ("hostname",):
                self._output.append(("stdout", machine_name.encode() + b"\n"))
            case ("cat",):
                self._open = True
            case ("true",):
                pass
            case ("false",):
                self._status = 1
            case ("exit", status) if status.isdigit():
                self._status = int(status)
            case _:
                name = argv[0] if argv else "shell"
                self._output.append(("stderr", f"{name}: not found in a simulated guest\n".encode()))
                self._status = 127

    @property
    def via(self) -> str:
        """As if over ssh."""
        return "ssh"

    @property
    def notice(self) -> str:
        """Says that the guest is simulated."""
        return "simulated guest"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._open = False

    def read(self, timeout_s: float) -> tuple[str, bytes] | None:
        """The next piece of output."""
        if self._output:
            return self._output.popleft()
        return ("", b"") if self._open else None

    def write(self, data: bytes) -> None:
        """What `cat` gives back, or the content of a file that is pushed."""
        if self._pushed:
            self._write(self._pushed, sha256(data).hexdigest()[:12])
            return
        self._output.append(("stdout", data))

    def close_input(self) -> None:
        """Ends `cat`."""
        self._open = False

    def resize(self, rows: int, columns: int) -> None:
        """Nothing to do."""

    def exit_status(self) -> int:
        """As the command says."""
        return self._status
