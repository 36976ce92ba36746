"""`ports.guests` for real guests: seeds on disk, ssh first, the guest agent where ssh cannot reach."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import InstallationId, MachineId
from forkbed.core.systems.spec import ProbeKind, ProbeSpec, ResolvedMachine, ResolvedNetwork, SetupSpec
from forkbed.core.systems.steps import Effect
from forkbed.drivers.guests import awakening
from forkbed.drivers.guests.agent import Agents, AskAgent
from forkbed.drivers.guests.keys import KeyStore
from forkbed.drivers.guests.probes import PROBE_TIMEOUT_S, greeting, probe_http, probe_tcp
from forkbed.drivers.guests.seeds import SeedStore
from forkbed.drivers.guests.setup import run_setup
from forkbed.drivers.guests.ssh import SshAccess
from forkbed.drivers.guests.ssh_command import SshTarget
from forkbed.drivers.processes import last_lines
from forkbed.ports.guests import CommandChannel, CommandRequest, GuestAddress, ProbeAnswer, SeedContent
from forkbed.ports.hypervisor import DiskAttachment
from forkbed.ports.progress import Progress

_CONNECT_TIMEOUT_S = 0.1
_POLL_S = 0.05
_FIRST_PING_AFTER_S = 5.0
_PING_EVERY_S = 2.0
_SSH_HEAD_START_S = 15.0  # an agent is often up before ssh, which is preferred
_COMMAND_CONNECT_TIMEOUT_S = 3.0
_KEPT_BYTES = 4096
_SEED_STATUS = "/run/forkbed/seed-status"

Place = tuple[str, str]  # a network namespace's path, and the guest's address in it


@dataclass(frozen=True, slots=True)
class GuestSettings:
    """Where the driver keeps keys and seeds, and sockets of kept connections (a short path)."""

    installation: InstallationId
    state_dir: Path
    runtime_dir: Path


class RealGuests:
    """Guests on this host, as `Guests` and `Awakening`. Thread-safe.

    `namespace` gives the path of the network namespace that reaches a network (from the networks driver); `ask_agent`
    talks to a machine's agent (from the hypervisor).
    """

    def __init__(
        self,
        settings: GuestSettings,
        *,
        namespace: Callable[[ResolvedNetwork], str],
        ask_agent: AskAgent,
    ) -> None:
        self._namespace = namespace
        self._agents = Agents(ask_agent)
        keys = KeyStore(settings.state_dir / "ssh", settings.installation)
        self._seeds = SeedStore(settings.state_dir / "seeds", keys)
        self._ssh = SshAccess(keys, settings.runtime_dir)
        self._answering: dict[MachineId, tuple[Place, str]] = {}  # where ssh last answered, and its greeting

    def seed(self, machine: ResolvedMachine, content: SeedContent, digest: str) -> Effect:
        """Write the machine's seed disk."""
        return self._seeds.write(machine, content, digest)

    def seed_attachment(self, machine: ResolvedMachine) -> DiskAttachment:
        """The machine's seed disk for the hypervisor."""
        return self._seeds.attachment(machine)

    def seed_digests(self) -> Mapping[MachineId, str]:
        """The digest of each seed on the host."""
        return self._seeds.digests()

    def remove_seed(self, machine_id: MachineId) -> Effect:
        """Remove the seed and what is known of the guest."""
        self.forget(machine_id)
        return self._seeds.remove(machine_id)

    def await_reachable(self, address: GuestAddress, timeout_s: float, progress: Progress) -> str:
        """Wait for ssh's greeting, else for the agent. The log-in itself is left to the first command."""
        machine = address.machine
        self._ssh.retire(machine.id)  # it may lead to the boot before this one
        started = time.monotonic()
        next_ping = started + (_FIRST_PING_AFTER_S if machine.nics else 0)
        agent_since: float | None = None
        progress.tell("waiting for the guest to answer")
        while (now := time.monotonic()) < started + timeout_s:
            progress.check_cancelled()
            if self._find_greeting(address, _CONNECT_TIMEOUT_S) is not None:
                return "ssh"
            if now >= next_ping:
                next_ping = now + _PING_EVERY_S
                if not self._agents.ping(machine.id):
                    agent_since = None
                elif not machine.nics or now - (agent_since or now) >= _SSH_HEAD_START_S:
                    return "agent"
                else:
                    agent_since = agent_since or now
                    progress.tell("the guest's agent answers, waiting for ssh")
            time.sleep(_POLL_S)
        if agent_since is not None or self._agents.ping(machine.id):
            return "agent"
        raise OperationalError(
            Kind.UNREACHABLE,
            f"machine {machine.name}",
            f"answers neither over ssh nor through its agent after {timeout_s:g} s",
            "`forkbed logs` shows its serial console",
        )

    def seed_failure(self, address: GuestAddress) -> str:
        """What the image's `seed-apply` says of this boot; images of others say nothing."""
        text = self._agents.read_file(address.machine.id, _SEED_STATUS) or ""
        word, _, reason = text.strip().partition(": ")
        return reason if word == "failed" else ""

    def run_setup(self, address: GuestAddress, commands: Sequence[SetupSpec], progress: Progress) -> None:
        """Run the commands that have not run yet."""

        def open_command(argv: tuple[str, ...]) -> AbstractContextManager[CommandChannel]:
            return self.open_command(address, CommandRequest(argv))

        run_setup(address.machine.name, open_command, commands, progress)

    def probe(self, address: GuestAddress, probe: ProbeSpec) -> ProbeAnswer:
        """Ask once."""
        if probe.kind is ProbeKind.EXEC:
            return self._probe_exec(address, probe.command)
        places = self._places(address)
        if not places:
            return ProbeAnswer(False, "the machine has no network to be asked over")
        try:
            namespace, host = places[0]
            if probe.kind is ProbeKind.TCP:
                return probe_tcp(namespace, host, probe.port)
            return probe_http(namespace, host, probe.port, probe.path, probe.status)
        except OperationalError as error:  # its network is gone or being made anew
            return ProbeAnswer(False, str(error))

    def open_command(self, address: GuestAddress, request: CommandRequest) -> CommandChannel:
        """Start a command, over ssh unless the request or the guest wants it otherwise."""
        machine = address.machine
        subject = f"machine {machine.name}"
        if request.via == "agent":
            return self._agents.open(machine.id, subject, request)
        try:
            return self._ssh.open(machine.id, self._target(address), request)
        except OperationalError as error:
            if request.via == "ssh" or error.kind is Kind.INVALID or not self._agents.ping(machine.id):
                raise
            channel = self._agents.open(machine.id, subject, request)
            channel.notice = f"{channel.notice}; ssh is not possible ({error.brief})"
            return channel

    def forget(self, machine_id: MachineId) -> None:
        """End the kept connection to the machine."""
        self._answering.pop(machine_id, None)
        self._ssh.forget(machine_id)

    def _probe_exec(self, address: GuestAddress, command: str) -> ProbeAnswer:
        output, deadline = {"stdout": b"", "stderr": b"", "": b""}, time.monotonic() + PROBE_TIMEOUT_S
        try:
            with self.open_command(address, CommandRequest(("/bin/sh", "-c", command))) as channel:
                channel.close_input()
                while (received := channel.read(max(0.0, deadline - time.monotonic()))) is not None:
                    if time.monotonic() >= deadline:
                        return ProbeAnswer(False, f"no end after {PROBE_TIMEOUT_S:g} s: {command}")
                    stream, data = received
                    output[stream] = (output[stream] + data)[-_KEPT_BYTES:]
                status = channel.exit_status()
        except OperationalError as error:
            return ProbeAnswer(False, str(error))
        if status == 0:
            return ProbeAnswer(True, "")
        words = [line for said in output.values() for line in last_lines(said)[-1:]]
        return ProbeAnswer(False, ": ".join([f"exit status {status}", *words, command]))

    def awaken(self, machine: ResolvedMachine, now: float, entropy: bytes, timeout_s: float) -> str:
        """Renew its clock and its kernel's randomness."""
        return awakening.awaken(self._agents, machine, now, entropy, timeout_s)

    def _places(self, address: GuestAddress) -> list[Place]:
        pairs = zip(address.machine.nics, address.networks, strict=True)
        return [(self._namespace(network), str(nic.address)) for nic, network in pairs]

    def _find_greeting(self, address: GuestAddress, connect_timeout_s: float) -> tuple[Place, str] | None:
        """The first NIC where ssh answers, and its greeting."""
        for place in self._places(address):
            try:
                said = greeting(*place, connect_timeout_s=connect_timeout_s)
            except OperationalError:  # this network is being made; another may do
                continue
            if said:
                self._answering[address.machine.id] = place, said
                return place, said
        return None

    def _target(self, address: GuestAddress) -> SshTarget:
        """Where to reach the guest by ssh. UNREACHABLE, sooner than ssh would notice, if nothing greets there."""
        machine = address.machine
        places = self._places(address)
        if not places:
            raise OperationalError(
                Kind.UNREACHABLE, f"machine {machine.name}", "it has no network, so ssh cannot reach it"
            )
        answering = self._answering.get(machine.id)
        if answering is not None and answering[0] not in places:
            # Its network leads elsewhere now: the kept connection comes from a namespace that is gone.
            self._ssh.retire(machine.id)
            answering = None
        if answering is None or not self._ssh.is_connected(machine.id):
            answering = self._find_greeting(address, _COMMAND_CONNECT_TIMEOUT_S)
        if answering is None:
            raise OperationalError(
                Kind.UNREACHABLE,
                f"machine {machine.name}",
                f"ssh: no server answers at {', '.join(host for _, host in places)}",
                "`forkbed console` shows what the guest is doing",
            )
        return self._ssh.target(machine, *answering)
