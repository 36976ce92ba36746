"""Cut a system: all its machines and disks at one instant. What is kept of it is complete, or nothing is.

Only the instant itself cannot be had again: a cut that a dead controller left half-made is taken back, while the
machines run on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId, SnapshotId
from forkbed.core.snapshots.records import MachineCut, Snapshot, SnapshotKind, SnapshotStatus
from forkbed.core.systems import digests
from forkbed.core.systems.planner import ALIVE
from forkbed.core.systems.spec import ResolvedMachine, ResolvedSystem
from forkbed.core.systems.view import Power
from forkbed.engine.branching import MachineCutSummary
from forkbed.engine.effects import Effects
from forkbed.engine.host import Host
from forkbed.engine.sidecars import forget_snapshot, write_snapshot_sidecar
from forkbed.ports.cuts import Cut, CutOrder, CutOutcome, DiskCut
from forkbed.ports.progress import Progress
from forkbed.ports.store import Store, SystemRecord

log = structlog.get_logger(__name__)

_AT_ONCE = 8
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CutTerms:
    """How to cut: whether to `hold` the machines afterwards, and for how long at most.

    Memory that is not `lasting` is lost with the host's boot. `before_freeze` may wait for what would take processors
    from the freeze.
    """

    hold: bool = False
    hold_limit_s: float = 0.0
    lasting: bool = True
    before_freeze: Callable[[], None] = lambda: None


def machine_powers(host: Host, system: ResolvedSystem) -> Mapping[MachineId, Power]:
    """What each of the system's machines does now."""
    return {machine.id: host.hypervisor.power(machine.id) for machine in system.machines}


def alive_machines(host: Host, system: ResolvedSystem) -> frozenset[MachineId]:
    """The system's machines that run or stand still in memory."""
    powers = machine_powers(host, system)
    return frozenset(machine_id for machine_id, power in powers.items() if power in ALIVE)


def check_cuttable(host: Host, record: SystemRecord, *, memory: bool) -> frozenset[MachineId]:
    """Refuse what cannot be cut, before anything is stopped for it; the machines that run or stand in memory."""
    system = record.resolved
    present = {volume.volume_id for volume in host.volumes.volumes()}

    def check(machine: ResolvedMachine) -> bool:
        subject = f"machine {system.name}/{machine.name}"
        if any(volume.id not in present for volume in machine.volumes):
            raise OperationalError(
                Kind.CONFLICT,
                subject,
                "has no disks yet, so there is nothing to keep of it",
                f"bring the system up first: `forkbed start {system.name}`",
            )
        now = host.hypervisor.machine(machine.id)
        if now is None or now.power not in ALIVE:
            return False
        if now.running_digest != digests.definition_digest(system, machine):
            raise OperationalError(
                Kind.CONFLICT,
                subject,
                "waits for a restart: it runs with another definition than the one declared",
                f"`forkbed restart {system.name}/{machine.name}` first",
            )
        refusal = host.cuts.refusal(machine.id) if memory else ""
        if refusal:
            raise OperationalError(
                Kind.CONFLICT,
                subject,
                f"its memory cannot be cut while it runs: {refusal}",
                "keep the disks alone: `forkbed snapshot --disks-only`, `forkbed fork --cold`",
            )
        return True

    alive = _of_each(system.machines, check)
    return frozenset(machine.id for machine, lives in zip(system.machines, alive, strict=True) if lives)


def cut_system(
    host: Host,
    store: Store,
    record: SystemRecord,
    snapshot: Snapshot,
    terms: CutTerms,
) -> tuple[Snapshot, Cut | None]:
    """Make the cut; the snapshot with what came of each machine, and the cut whose memory may still be written.

    None for a system of which nothing runs. On an error everything is as before.
    """
    system = record.resolved
    powers = machine_powers(host, system)
    try:
        orders = _prepare(host, system, snapshot, powers, lasting=terms.lasting)
        quiesce = snapshot.kind is SnapshotKind.DISKS
        cut = None
        if orders:
            cut = host.cuts.cut(
                snapshot.id,
                orders,
                hold=terms.hold,
                quiesce=quiesce,
                hold_limit_s=terms.hold_limit_s,
                before_freeze=terms.before_freeze,
            )
    except OperationalError:
        take_back(host, store, snapshot)
        raise
    try:
        settle_volumes(host, system, snapshot.id)
        outcomes = {outcome.machine_id: outcome for outcome in cut.outcomes} if cut is not None else {}
        machines = tuple(
            _machine_cut(machine.id, machine.name, powers[machine.id], outcomes.get(machine.id))
            for machine in system.machines
        )
        snapshot = replace(snapshot, machines=machines)
        store.save_snapshot(snapshot)
    except Exception:
        if cut is not None:
            cut.resume()
        raise
    return snapshot, cut


def complete_snapshot(
    host: Host, store: Store, snapshot: Snapshot, cut: Cut | None, progress: Progress
) -> Snapshot:
    """Wait until its memory is kept, and say that it is complete."""
    sizes = cut.await_memory(progress) if cut is not None else {}
    machines = tuple(
        replace(machine, memory_bytes=sizes.get(machine.machine_id, 0)) for machine in snapshot.machines
    )
    snapshot = replace(snapshot, machines=machines, status=SnapshotStatus.COMPLETE)
    store.save_snapshot(snapshot)
    write_snapshot_sidecar(host, snapshot)
    return snapshot


def define_on_layers(host: Host, store: Store, system: ResolvedSystem) -> None:
    """Have the definitions of the system's machines name the layers that these write to since a cut.

    Nothing depends on it: whoever starts a machine defines it before. So a failure is only logged.
    """
    effects = Effects(host, store, system)
    try:
        powers = machine_powers(host, system)
        for machine in system.machines:
            if powers[machine.id] is not Power.ABSENT:
                effects.define(machine)
    except OperationalError as error:
        log.warning("definitions-name-older-layers", system=system.name, error=str(error))


def settle_volumes(host: Host, system: ResolvedSystem, snapshot_id: SnapshotId) -> None:
    """Record for each volume whether its machine's writes moved on to the overlay of the cut."""
    prepared = host.volume_cuts.prepared_cuts()
    written = _of_each(system.machines, lambda machine: host.cuts.disks_in_use(machine.id))
    for machine, in_use in zip(system.machines, written, strict=True):
        for volume in machine.volumes:
            if prepared.get(volume.id) == snapshot_id:
                files = in_use.get(host.volumes.attachment(volume).serial)
                host.volume_cuts.finish_cut(volume.id, snapshot_id, files[0] if files else None)


def take_back(host: Host, store: Store, snapshot: Snapshot) -> None:
    """Remove a snapshot that was not completed: its machines run on, on one layer more."""
    settle_volumes(host, snapshot.resolved, snapshot.id)
    drop_snapshot(host, store, snapshot)


def drop_snapshot(host: Host, store: Store, snapshot: Snapshot) -> None:
    """Remove a snapshot with its memory; layers that something stands on stay."""
    if store.snapshot(snapshot.id) is not None:
        store.save_snapshot(replace(snapshot, status=SnapshotStatus.REMOVING))
    host.cuts.remove_memory(snapshot.id)
    host.volume_cuts.release_cut(snapshot.id)
    forget_snapshot(host, snapshot.id)
    store.delete_snapshot(snapshot.id)


def machine_summary(machine: MachineCut) -> MachineCutSummary:
    """What people are told of one machine of a cut."""
    frozen_s = None
    if machine.frozen_at is not None and machine.resumed_at is not None:
        frozen_s = machine.resumed_at - machine.frozen_at
    return MachineCutSummary(
        name=machine.name,
        power=machine.power,
        method=machine.method,
        frozen_at=machine.frozen_at,
        frozen_s=frozen_s,
        memory_bytes=machine.memory_bytes,
        quiesced=machine.quiesced,
        note=machine.note,
    )


def _prepare(
    host: Host,
    system: ResolvedSystem,
    snapshot: Snapshot,
    powers: Mapping[MachineId, Power],
    *,
    lasting: bool,
) -> list[CutOrder]:
    orders = []
    for machine in system.machines:
        disks = tuple(
            DiskCut(
                host.volumes.attachment(volume).serial, host.volume_cuts.prepare_cut(volume.id, snapshot.id)
            )
            for volume in machine.volumes
        )
        if powers[machine.id] in ALIVE:
            memory = snapshot.kind is SnapshotKind.LIVE
            orders.append(CutOrder(machine.id, disks, memory, lasting))
    return orders


def _of_each(machines: Sequence[ResolvedMachine], ask: Callable[[ResolvedMachine], T]) -> list[T]:
    """The answers of all machines, asked at the same time: most of it is waiting. Raises the first error."""
    with ThreadPoolExecutor(_AT_ONCE, "look") as pool:
        return list(pool.map(ask, machines))


def _machine_cut(machine_id: MachineId, name: str, power: Power, outcome: CutOutcome | None) -> MachineCut:
    if outcome is None:
        return MachineCut(machine_id, name, Power.OFF if power is Power.ABSENT else power)
    return MachineCut(
        machine_id=machine_id,
        name=name,
        power=outcome.power,
        method=outcome.method,
        frozen_at=outcome.frozen_at,
        resumed_at=outcome.resumed_at,
        quiesced=outcome.quiesced,
        note=outcome.note,
    )
