"""Inside a guest: seeds, probes, set-up commands, and streams of a running command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from forkbed.base.ids import MachineId
from forkbed.core.systems.spec import ProbeSpec, ResolvedMachine, ResolvedNetwork, SetupSpec
from forkbed.core.systems.steps import Effect
from forkbed.ports.hypervisor import DiskAttachment
from forkbed.ports.progress import Progress


@dataclass(frozen=True, slots=True)
class GuestAddress:
    """How a guest is reached: its machine and its NICs' networks, in order."""

    machine: ResolvedMachine
    networks: tuple[ResolvedNetwork, ...]


@dataclass(frozen=True, slots=True)
class SeedContent:
    """What a seed holds besides the machine itself: bytes by content hash, and secrets by name."""

    system_name: str
    files: Mapping[str, bytes]
    secrets: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """`good`, or the reason why not ("connection refused", "status 503, wanted 200")."""

    good: bool
    reason: str


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """A command for a guest. `argv` is run without a shell's interpretation of its words.

    `terminal` is rows and columns for an interactive one. With an empty `argv` the user's shell is started, with
    `mark` in its prompt as far as that goes without a change of the guest's files.
    """

    argv: tuple[str, ...]
    user: str = "root"
    terminal: tuple[int, int] | None = None
    via: str = "auto"  # "ssh", "agent", or "auto": ssh, else agent
    mark: str = ""


class CommandChannel(Protocol):
    """A running command: streams of any size, then its status. Leaving the context ends the command."""

    @property
    def via(self) -> str:
        """ "ssh" or "agent"; `notice` says what the agent cannot do."""

    @property
    def notice(self) -> str: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def read(self, timeout_s: float) -> tuple[str, bytes] | None:
        """The next ("stdout"|"stderr", bytes); ("", b"") if nothing came in time; None when both ended."""

    def write(self, data: bytes) -> None:
        """Pass bytes to its standard input; blocks while the guest does not take them."""

    def close_input(self) -> None: ...

    def resize(self, rows: int, columns: int) -> None: ...

    def exit_status(self) -> int:
        """The command's exit status (128 + signal), once `read` returned None."""


class Guests(Protocol):
    def seed(self, machine: ResolvedMachine, content: SeedContent, digest: str) -> Effect:
        """Write the machine's seed disk (0400). Host keys stay the same for the same instance id."""

    def seed_attachment(self, machine: ResolvedMachine) -> DiskAttachment: ...

    def seed_digests(self) -> Mapping[MachineId, str]:
        """The digest of each seed on the host."""

    def remove_seed(self, machine_id: MachineId) -> Effect: ...

    def await_reachable(self, address: GuestAddress, timeout_s: float, progress: Progress) -> str:
        """Wait until the guest answers over ssh or agent; returns which. UNREACHABLE after `timeout_s`."""

    def seed_failure(self, address: GuestAddress) -> str:
        """What of its seed the guest could not take over at this boot; "" if all, or if it cannot tell."""

    def run_setup(self, address: GuestAddress, commands: Sequence[SetupSpec], progress: Progress) -> None:
        """Run those whose mark is not in the guest yet, in order. A FAULT carries the command's own words."""

    def probe(self, address: GuestAddress, probe: ProbeSpec) -> ProbeAnswer:
        """Ask once, within a few seconds."""

    def open_command(self, address: GuestAddress, request: CommandRequest) -> CommandChannel: ...

    def forget(self, machine_id: MachineId) -> None:
        """Drop kept connections to a machine that stopped."""


class Awakening(Protocol):
    """What a guest has to be told when it goes on from a memory."""

    def awaken(self, machine: ResolvedMachine, now: float, entropy: bytes, timeout_s: float) -> str:
        """Through the agent: set the clock to `now` (seconds since the epoch, at the call), mix `entropy` into the
        kernel's randomness and have it draw anew. Returns what could not be done, "" if all was; never raises
        for a guest without agent. Waits at most `timeout_s` for the agent."""
