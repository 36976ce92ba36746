"""Cuts of running machines on one host: freeze together, keep memory, go on; and memories brought back to life.

The disks' part of a cut is made of overlays that `ports.volumes` prepared; this port puts the machines on them.
Whatever dies in the middle (this process, the hypervisor's manager, the guard), machines that were to go on run
again within 10 s, see `recover`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from forkbed.base.ids import MachineId, SnapshotId
from forkbed.core.snapshots.records import FreezeMethod
from forkbed.core.systems.goal import MemoryRef
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import Power
from forkbed.ports.hypervisor import MachineDefinition
from forkbed.ports.progress import Progress


@dataclass(frozen=True, slots=True)
class DiskCut:
    """A disk of the machine, by serial number, and the overlay (qcow2) that its writes go to from the cut on."""

    serial: str
    overlay: str


@dataclass(frozen=True, slots=True)
class CutOrder:
    """What to do with one machine that runs or is paused. `memory`: keep it too; `lasting`: beyond the host's boot."""

    machine_id: MachineId
    disks: tuple[DiskCut, ...]
    memory: bool
    lasting: bool = True


@dataclass(frozen=True, slots=True)
class CutOutcome:
    """What came of it. `resumed_at` is None for a machine that was paused before, or is held."""

    machine_id: MachineId
    power: Power  # before
    method: FreezeMethod
    frozen_at: float
    resumed_at: float | None
    quiesced: bool = False
    note: str = ""


class Cut(Protocol):
    """A cut that was made. Memory may still be on its way to its files."""

    @property
    def outcomes(self) -> Sequence[CutOutcome]: ...

    def await_memory(self, progress: Progress) -> Mapping[MachineId, int]:
        """Wait until each memory is complete; the size of each file. FAULT if one could not be written.

        Never cancelled in the middle: a stream that is cut off hangs its machine.
        """

    def resume(self) -> None:
        """Let machines go on that the cut holds, also before their memory is complete; then it never will be."""

    def give_up(self) -> None:
        """The held machines will not go on: from now on nobody resumes them, also if this process dies.

        Waits for their memory; FAULT if it could not be written. The commit point of whatever replaces them: it
        succeeds once, or raises CONFLICT because somebody let them go on already.
        `MachineCuts.was_given_up` tells of it until `forget_given_up`, or until the host's boot ends, and with it
        all machines.
        """


@dataclass(frozen=True, slots=True)
class MemoryView:
    """A memory on this host. Only complete ones are shown, and those a stream is still writing."""

    snapshot_id: SnapshotId
    machine_id: MachineId
    size_bytes: int


class MachineCuts(Protocol):
    def refusal(self, machine_id: MachineId) -> str:
        """Why the memory of this running machine cannot be cut ("uses a host device (VFIO)"), or ""."""

    def memory_file_bytes(self, machine_id: MachineId) -> int:
        """The space that the file of the machine's memory may need."""

    def cut(
        self,
        snapshot_id: SnapshotId,
        orders: Sequence[CutOrder],
        *,
        hold: bool,
        quiesce: bool,
        hold_limit_s: float = 0.0,
        before_freeze: Callable[[], None] = lambda: None,
    ) -> Cut:
        """Freeze all, put the disks on their overlays, keep memory where ordered, let go unless `hold`.

        Returns when all have resumed, or are held. Memory's space is allocated before the pause: CONFLICT without one
        if it does not fit. `before_freeze` is called when all is prepared. With `quiesce`, file systems are frozen
        through the agents first, for a limited time. A machine that was paused stays paused. With `hold`, or where
        the host refuses background snapshots, memory is written while the machine stands still. Machines that were
        held for `hold_limit_s` and a while longer are let go on by the guard.
        On any failure all machines that ran run again; which disks moved on, `disks_in_use` tells.
        """

    def was_given_up(self, snapshot_id: SnapshotId) -> bool:
        """Whether the machines that a cut for this snapshot held were given up."""

    def forget_given_up(self, snapshot_id: SnapshotId) -> None:
        """What replaces them is stored: the note is not needed any more."""

    def restore(self, definition: MachineDefinition, memory: MemoryRef) -> Effect:
        """Bring the defined machine back from a memory, on the definition's disks, NICs, names and ids: paused.

        May begin while the memory is still being written, by the process that made the cut. ALREADY if it runs.
        """

    def make_lasting(self, snapshot_id: SnapshotId) -> bool:
        """Have a snapshot's complete memories outlast the host's boot; returns when they are on the disk.

        False if there are none any more, because the boot that they were of has ended.
        """

    def memories(self) -> Sequence[MemoryView]:
        """The memories on this host."""

    def remove_memory(self, snapshot_id: SnapshotId) -> Effect:
        """Remove the memories of a snapshot; one that is being written is waited for."""

    def recover(self) -> None:
        """After a crash: have every machine run that a cut left frozen, clear what cuts leave behind."""

    def disks_in_use(self, machine_id: MachineId) -> Mapping[str, tuple[str, ...]]:
        """By serial number, the files of each disk of a running or paused machine, active layer first.

        Empty if the machine does not run.
        """

    def commit_layer(
        self, machine_id: MachineId, serial: str, top: str, into: str, progress: Progress
    ) -> Effect:
        """Write the layer `top` of a running machine's chain down into `into`, right below it; then `top` is no
        longer used. Neither is the active layer. ALREADY if `top` is not in the chain."""

    def pull_layers(self, machine_id: MachineId, serial: str, keep: str, progress: Progress) -> Effect:
        """Copy what lies between the active layer and the layer `keep` ("": all) into the active layer of a
        running machine, so that it stands on `keep`. ALREADY if it does."""

    def flush(self, machine_id: MachineId, serial: str) -> None:
        """Have on disk what the hypervisor holds back of a running machine's disk. To be called before a layer goes
        that was folded: what a pull copied is in the hypervisor's memory first. CONFLICT if it does not run."""
