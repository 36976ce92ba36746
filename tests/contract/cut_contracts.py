"""What every driver of cuts must do, real or simulated: of volumes (`VolumeCuts`) and of machines (`MachineCuts`).

A volume's part needs no machine: a block is written and read through a layer's file, as a guest would.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol

from forkbed.base.errors import Kind
from forkbed.base.ids import MachineId, NetworkId, SnapshotId, SystemId, VolumeId
from forkbed.core.snapshots.records import FreezeMethod
from forkbed.core.systems.goal import MemoryRef
from forkbed.core.systems.spec import ResolvedMachine, ResolvedVolume, VolumeOrigin
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import Power
from forkbed.core.volumes.layers import Commit, Pull
from forkbed.ports.cuts import Cut, CutOrder, DiskCut, MachineCuts
from forkbed.ports.guests import Awakening
from forkbed.ports.networks import Recorder
from forkbed.ports.progress import Silence
from forkbed.ports.volumes import VolumeCuts, Volumes
from tests.contract.contracts import ABSENT, BOSS, Bench, refused

SYSTEM, FORK_SYSTEM = SystemId("sys1"), SystemId("sys2")
DATA = BOSS.volumes[1]
FIRST, SECOND = SnapshotId("snap1"), SnapshotId("snap2")


class CutVolumes(Volumes, VolumeCuts, Protocol):
    """A driver of volumes with their cuts."""


class DiskBench(Protocol):
    """Volumes, and blocks of their files; a block that was never written reads as 0."""

    @property
    def volumes(self) -> CutVolumes: ...
    def write(self, path: str, block: int, value: int) -> None: ...
    def read(self, path: str, block: int) -> int: ...
    def files(self) -> Collection[str]:
        """The layers on the host."""
        ...

    def commit_as_guest_runs(self, above: str, top: str, into: str) -> None:
        """What a running machine does for a `Commit` of `top`, which `above` stands on."""
        ...


def fork_volume(volume: ResolvedVolume, snapshot_id: SnapshotId, name: str = "f") -> ResolvedVolume:
    """The volume of a fork that was cut there."""
    origin = VolumeOrigin(snapshot_id, volume.id)
    return replace(volume, id=VolumeId(f"{name}{volume.id}"), origin=origin)


def fork_machine(machine: ResolvedMachine, snapshot_id: SnapshotId) -> ResolvedMachine:
    """The machine in a fork: ids and taps of its own, everything that the guest sees the same."""
    return replace(
        machine,
        id=MachineId(f"f{machine.id}"),
        nics=tuple(replace(nic, tap=f"{nic.tap[:-1]}f") for nic in machine.nics),
        volumes=tuple(fork_volume(volume, snapshot_id) for volume in machine.volumes),
        generation_uuid="11111111-2222-4333-8444-00000000000f",
        uuid="99999999-2222-4333-8444-00000000000f",
    )


def _cut(bench: DiskBench, volume: ResolvedVolume, snapshot_id: SnapshotId) -> str:
    """Cut a volume as a running machine would be; the new active layer."""
    overlay = bench.volumes.prepare_cut(volume.id, snapshot_id)
    assert bench.volumes.finish_cut(volume.id, snapshot_id, overlay) is Effect.CHANGED
    return overlay


def _kept(volumes: VolumeCuts) -> Sequence[tuple[SnapshotId, VolumeId]]:
    return sorted((view.snapshot_id, view.volume_id) for view in volumes.cuts())


def _chains_end(bench: DiskBench, *volume_ids: VolumeId) -> None:
    """Nothing is left once these volumes are gone."""
    for volume_id in volume_ids:
        assert bench.volumes.remove(volume_id) is Effect.CHANGED
    assert not bench.files()


def volume_cuts_keep_an_instant(bench: DiskBench) -> None:
    volumes = bench.volumes
    volumes.create(SYSTEM, BOSS, DATA, None)
    (first,) = volumes.chain(DATA.id)
    bench.write(first, 0, 1)
    overlay = volumes.prepare_cut(DATA.id, FIRST)
    assert volumes.prepare_cut(DATA.id, FIRST) == overlay
    assert (volumes.chain(DATA.id), volumes.prepared_cuts()) == ((first,), {DATA.id: FIRST})
    refused(Kind.CONFLICT, lambda: volumes.prepare_cut(DATA.id, SECOND))
    bench.write(first, 1, 1)  # until the cut the machine goes on writing here
    assert volumes.finish_cut(DATA.id, FIRST, overlay) is Effect.CHANGED
    assert volumes.finish_cut(DATA.id, FIRST, overlay) is Effect.ALREADY
    assert (volumes.chain(DATA.id), volumes.prepared_cuts()) == ((overlay, first), {})
    refused(Kind.CONFLICT, lambda: volumes.prepare_cut(DATA.id, FIRST))  # one instant, one cut
    bench.write(overlay, 0, 2)
    (view,) = volumes.cuts()
    assert (
        view.snapshot_id,
        view.volume_id,
        view.system_id,
        view.machine_id,
        view.machine_name,
        view.name,
    ) == (
        FIRST,
        DATA.id,
        SYSTEM,
        BOSS.id,
        "boss",
        "data",
    )
    forks = [fork_volume(DATA, FIRST, name) for name in ("f", "g")]
    for fork in forks:
        assert volumes.create_on_cut(FORK_SYSTEM, BOSS, fork) is Effect.CHANGED
        active = volumes.attachment(fork).path
        assert (bench.read(active, 0), bench.read(active, 1)) == (1, 1)
        bench.write(active, 0, 3)
        assert volumes.create_on_cut(FORK_SYSTEM, BOSS, fork) is Effect.ALREADY
        assert bench.read(active, 0) == 3
    assert bench.read(overlay, 0) == 2
    assert {view.volume_id for view in volumes.volumes()} == {DATA.id, *(fork.id for fork in forks)}
    refused(Kind.NOT_FOUND, lambda: volumes.prepare_cut(VolumeId("never"), FIRST))


def volume_cuts_that_did_not_happen_leave_nothing(bench: DiskBench) -> None:
    volumes = bench.volumes
    volumes.create(SYSTEM, BOSS, DATA, None)
    (first,) = volumes.chain(DATA.id)
    overlay = volumes.prepare_cut(DATA.id, FIRST)
    assert volumes.finish_cut(DATA.id, SECOND, overlay) is Effect.ALREADY
    assert volumes.finish_cut(DATA.id, FIRST, first) is Effect.CHANGED
    assert (volumes.chain(DATA.id), list(volumes.cuts()), set(bench.files())) == ((first,), [], {first})
    overlay = volumes.prepare_cut(DATA.id, SECOND)
    bench.write(overlay, 0, 5)  # it ran on after its cut, then ended
    assert volumes.finish_cut(DATA.id, SECOND, None) is Effect.CHANGED
    assert volumes.chain(DATA.id) == (overlay, first)
    assert _kept(volumes) == [(SECOND, DATA.id)]
    assert volumes.release_cut(SECOND) is Effect.CHANGED
    assert volumes.release_cut(SECOND) is Effect.ALREADY
    overlay = volumes.prepare_cut(DATA.id, FIRST)
    _chains_end(bench, DATA.id)
    assert volumes.prepared_cuts() == {}


def layers_go_when_nothing_stands_on_them(bench: DiskBench) -> None:
    volumes = bench.volumes
    volumes.create(SYSTEM, BOSS, DATA, None)
    bench.write(volumes.chain(DATA.id)[0], 0, 1)
    _cut(bench, DATA, FIRST)
    fork = fork_volume(DATA, FIRST)
    volumes.create_on_cut(FORK_SYSTEM, BOSS, fork)
    assert volumes.remove(DATA.id) is Effect.CHANGED  # the cut and the fork still stand on its layer
    assert bench.read(volumes.chain(fork.id)[0], 0) == 1
    before = volumes.own_bytes()[fork.id]
    assert volumes.release_cut(FIRST) is Effect.CHANGED
    assert bench.read(volumes.chain(fork.id)[0], 0) == 1
    assert volumes.own_bytes()[fork.id] >= before + 64 * 1024  # it is the last one on that layer
    refused(Kind.NOT_FOUND, lambda: volumes.create_on_cut(FORK_SYSTEM, BOSS, fork_volume(DATA, FIRST, "g")))
    _chains_end(bench, fork.id)


def a_cut_alone_keeps_its_layers(bench: DiskBench) -> None:
    volumes = bench.volumes
    volumes.create(SYSTEM, BOSS, DATA, None)
    bench.write(volumes.chain(DATA.id)[0], 0, 1)
    _cut(bench, DATA, FIRST)
    volumes.remove(DATA.id)
    (view,) = volumes.cuts()
    assert view.own_bytes >= 64 * 1024
    fork = fork_volume(DATA, FIRST)
    volumes.create_on_cut(FORK_SYSTEM, BOSS, fork)
    assert bench.read(volumes.chain(fork.id)[0], 0) == 1
    assert volumes.remove(fork.id) is Effect.CHANGED
    assert volumes.release_cut(FIRST) is Effect.CHANGED
    assert not bench.files()


def volumes_are_renewed(bench: DiskBench) -> None:
    volumes = bench.volumes
    volumes.create(SYSTEM, BOSS, DATA, None)
    bench.write(volumes.chain(DATA.id)[0], 0, 1)
    _cut(bench, DATA, FIRST)
    fork = fork_volume(DATA, FIRST)
    volumes.create_on_cut(FORK_SYSTEM, BOSS, fork)
    bench.write(volumes.chain(fork.id)[0], 0, 2)
    overlay = _cut(bench, fork, SECOND)
    bench.write(overlay, 0, 3)
    volumes.renew(fork)
    assert bench.read(volumes.chain(fork.id)[0], 0) == 1
    again = fork_volume(fork, SECOND, "g")
    volumes.create_on_cut(FORK_SYSTEM, BOSS, again)
    assert bench.read(volumes.chain(again.id)[0], 0) == 2
    refused(Kind.NOT_FOUND, lambda: volumes.renew(replace(fork, id=VolumeId("never"))))
    refused(Kind.CONFLICT, lambda: volumes.renew(DATA))


def folds_shorten_chains(bench: DiskBench) -> None:
    volumes = bench.volumes
    volumes.create(SYSTEM, BOSS, DATA, None)
    for number in range(1, 7):
        active = volumes.chain(DATA.id)[0]
        bench.write(active, 0, number)
        bench.write(active, number, number)
        _cut(bench, DATA, SnapshotId(f"s{number}"))
    for number in (1, 2, 4, 5, 6):
        volumes.release_cut(SnapshotId(f"s{number}"))
    assert len(volumes.chain(DATA.id)) == 7
    assert volumes.plan_fold(DATA.id, 7) is None
    folded = 0
    while (fold := volumes.plan_fold(DATA.id, 3)) is not None:
        assert volumes.fold_offline(DATA.id, fold, Silence()) is Effect.CHANGED
        folded += 1
        assert folded < 7
    assert len(volumes.chain(DATA.id)) <= 3
    active = volumes.chain(DATA.id)[0]
    assert [bench.read(active, block) for block in range(8)] == [6, 1, 2, 3, 4, 5, 6, 0]
    fork = fork_volume(DATA, SnapshotId("s3"))
    volumes.create_on_cut(FORK_SYSTEM, BOSS, fork)
    active = volumes.chain(fork.id)[0]
    assert [bench.read(active, block) for block in range(8)] == [3, 1, 2, 3, 0, 0, 0, 0]
    assert volumes.release_cut(SnapshotId("s3")) is Effect.CHANGED
    _chains_end(bench, DATA.id, fork.id)


def folds_of_a_running_machine_are_recorded(bench: DiskBench) -> None:
    volumes = bench.volumes
    volumes.create(SYSTEM, BOSS, DATA, None)
    for number in range(1, 5):
        bench.write(volumes.chain(DATA.id)[0], number, number)
        _cut(bench, DATA, SnapshotId(f"s{number}"))
        volumes.release_cut(SnapshotId(f"s{number}"))
    chain = volumes.chain(DATA.id)
    fold = volumes.plan_fold(DATA.id, 4)
    assert isinstance(fold, Commit | Pull)
    assert isinstance(fold, Commit), "nothing else stands on these layers: what is written is the smaller one"
    bench.commit_as_guest_runs(chain[chain.index(fold.top) - 1], fold.top, fold.into)
    left = tuple(path for path in chain if path != fold.top)
    refused(Kind.FAULT, lambda: volumes.record_fold(DATA.id, (*left[:-1], "/somewhere/else.qcow2")))
    assert volumes.record_fold(DATA.id, left) is Effect.CHANGED
    assert volumes.record_fold(DATA.id, left) is Effect.ALREADY
    assert (volumes.chain(DATA.id), fold.top in bench.files()) == (left, False)
    assert [bench.read(left[0], block) for block in range(5)] == [0, 1, 2, 3, 4]


VOLUME_PROMISES = (
    volume_cuts_keep_an_instant,
    volume_cuts_that_did_not_happen_leave_nothing,
    layers_go_when_nothing_stands_on_them,
    a_cut_alone_keeps_its_layers,
    volumes_are_renewed,
    folds_shorten_chains,
    folds_of_a_running_machine_are_recorded,
)


class CutBench(Bench, Protocol):
    """A host whose machines can be cut. The guest of `BOSS` can be asked for what is in memory and on a disk."""

    @property
    def cuts(self) -> MachineCuts: ...
    @property
    def cut_volumes(self) -> CutVolumes: ...
    def memory_token(self, machine: ResolvedMachine) -> str:
        """Something that only this boot's memory holds."""
        ...

    def guest_write(self, machine: ResolvedMachine, value: str) -> None:
        """Put it on the data volume, durably."""
        ...

    def guest_read(self, machine: ResolvedMachine) -> str: ...
    def define_on_cut(self, machine: ResolvedMachine) -> None:
        """Volumes, seed and definition of a fork's machine."""
        ...


def _power(bench: CutBench, machine: ResolvedMachine) -> Power:
    (seen,) = [seen for seen in bench.hypervisor.machines() if seen.machine_id == machine.id]
    return seen.power


def cut_machine(
    bench: CutBench,
    snapshot_id: SnapshotId,
    *,
    memory: bool = True,
    hold: bool = False,
    quiesce: bool = False,
) -> Cut:
    """Cut `BOSS` with all its volumes, and settle the volumes' part."""
    disks = tuple(
        DiskCut(bench.volumes.attachment(v).serial, bench.cut_volumes.prepare_cut(v.id, snapshot_id))
        for v in BOSS.volumes
    )
    power = _power(bench, BOSS)
    before: list[Power] = []
    cut = bench.cuts.cut(
        snapshot_id,
        [CutOrder(BOSS.id, disks, memory)],
        hold=hold,
        quiesce=quiesce,
        before_freeze=lambda: before.append(_power(bench, BOSS)),
    )
    assert before == [power], "what delays the freeze meets machines that still run"
    in_use = bench.cuts.disks_in_use(BOSS.id)
    for volume, disk in zip(BOSS.volumes, disks, strict=True):
        assert in_use[disk.serial][0] == disk.overlay
        bench.cut_volumes.finish_cut(volume.id, snapshot_id, in_use[disk.serial][0])
        assert in_use[disk.serial] == bench.cut_volumes.chain(volume.id)
    return cut


def machines_go_on_after_a_cut(bench: CutBench) -> None:
    bench.boot(BOSS)
    bench.guest_write(BOSS, "before")
    token = bench.memory_token(BOSS)
    cut = cut_machine(bench, FIRST)
    (outcome,) = cut.outcomes
    assert (outcome.machine_id, outcome.power) == (BOSS.id, Power.RUNNING)
    assert outcome.method in (FreezeMethod.BACKGROUND, FreezeMethod.PAUSED)
    assert outcome.resumed_at is not None and outcome.resumed_at >= outcome.frozen_at
    assert (_power(bench, BOSS), bench.memory_token(BOSS)) == (Power.RUNNING, token)
    bench.guest_write(BOSS, "after")
    sizes = cut.await_memory(Silence())
    assert sizes[BOSS.id] > 0
    (view,) = bench.cuts.memories()
    assert (view.snapshot_id, view.machine_id) == (FIRST, BOSS.id)
    bench.hypervisor.force_off(BOSS.id)
    assert bench.cuts.disks_in_use(BOSS.id) == {}

    fork = fork_machine(BOSS, FIRST)
    memory = MemoryRef(FIRST, BOSS.id)
    try:
        bench.define_on_cut(fork)
        definition = bench.definition(fork)
        refused(Kind.NOT_FOUND, lambda: bench.cuts.restore(definition, MemoryRef(SECOND, BOSS.id)))
        assert bench.cuts.restore(definition, memory) is Effect.CHANGED
        assert bench.cuts.restore(definition, memory) is Effect.ALREADY
        assert _power(bench, fork) is Power.PAUSED
        assert bench.hypervisor.resume(fork.id) is Effect.CHANGED
        bench.guests.await_reachable(bench.address(fork), 60, Silence())
        assert (bench.memory_token(fork), bench.guest_read(fork)) == (token, "before")
        bench.guest_write(fork, "in the fork")
        bench.hypervisor.force_off(fork.id)
    finally:
        bench.discard(fork)
    assert bench.cuts.remove_memory(FIRST) is Effect.CHANGED
    assert bench.cuts.remove_memory(FIRST) is Effect.ALREADY
    assert list(bench.cuts.memories()) == []
    bench.define(BOSS)
    bench.hypervisor.start(BOSS.id)
    bench.guests.await_reachable(bench.address(BOSS), 90, Silence())
    assert (bench.guest_read(BOSS), bench.memory_token(BOSS) == token) == ("after", False)
    bench.cut_volumes.release_cut(FIRST)


def held_machines_wait_for_the_word(bench: CutBench) -> None:
    bench.boot(BOSS)
    cut = cut_machine(bench, FIRST, hold=True)
    assert (cut.outcomes[0].resumed_at, _power(bench, BOSS)) == (None, Power.PAUSED)
    cut.resume()
    assert _power(bench, BOSS) is Power.RUNNING
    cut = cut_machine(bench, SECOND, hold=True)
    assert cut.await_memory(Silence())[BOSS.id] > 0
    cut.give_up()
    bench.cuts.recover()
    assert _power(bench, BOSS) is Power.PAUSED
    for snapshot_id in (FIRST, SECOND):
        bench.cuts.remove_memory(snapshot_id)
        bench.cut_volumes.release_cut(snapshot_id)


def paused_machines_stay_paused(bench: CutBench) -> None:
    bench.boot(BOSS)
    bench.hypervisor.pause(BOSS.id)
    (outcome,) = cut_machine(bench, FIRST).outcomes
    assert (outcome.power, outcome.resumed_at, _power(bench, BOSS)) == (Power.PAUSED, None, Power.PAUSED)
    bench.cuts.remove_memory(FIRST)
    bench.hypervisor.resume(BOSS.id)
    cut = cut_machine(bench, SECOND, memory=False, quiesce=True)
    (outcome,) = cut.outcomes
    assert (outcome.method, outcome.quiesced, _power(bench, BOSS)) == (
        FreezeMethod.DISKS,
        True,
        Power.RUNNING,
    )
    assert list(bench.cuts.memories()) == []
    for snapshot_id in (FIRST, SECOND):
        bench.cut_volumes.release_cut(snapshot_id)


def machines_that_do_not_run_are_not_cut(bench: CutBench) -> None:
    bench.define(BOSS)
    order = CutOrder(BOSS.id, (), memory=True)
    refused(Kind.CONFLICT, lambda: bench.cuts.cut(FIRST, [order], hold=False, quiesce=False))
    assert bench.cuts.disks_in_use(BOSS.id) == {}
    assert bench.cuts.disks_in_use(ABSENT) == {}
    assert list(bench.cuts.memories()) == []


def running_machines_fold(bench: CutBench) -> None:
    bench.boot(BOSS)
    data = BOSS.volumes[1]
    for number in range(1, 5):
        bench.guest_write(BOSS, str(number))
        cut_machine(bench, SnapshotId(f"s{number}"), memory=False)
        bench.cut_volumes.release_cut(SnapshotId(f"s{number}"))
    chain = bench.cut_volumes.chain(data.id)
    top, into = chain[1], chain[2]
    assert bench.cuts.commit_layer(BOSS.id, "vol-data", top, into, Silence()) is Effect.CHANGED
    assert bench.cuts.commit_layer(BOSS.id, "vol-data", top, into, Silence()) is Effect.ALREADY
    in_use = bench.cuts.disks_in_use(BOSS.id)["vol-data"]
    assert in_use == tuple(path for path in chain if path != top)
    assert bench.cut_volumes.record_fold(data.id, in_use) is Effect.CHANGED
    keep = in_use[-1]
    assert bench.cuts.pull_layers(BOSS.id, "vol-data", keep, Silence()) is Effect.CHANGED
    assert bench.cuts.pull_layers(BOSS.id, "vol-data", keep, Silence()) is Effect.ALREADY
    in_use = bench.cuts.disks_in_use(BOSS.id)["vol-data"]
    assert in_use == (chain[0], keep)
    bench.cuts.flush(BOSS.id, "vol-data")
    assert bench.cut_volumes.record_fold(data.id, in_use) is Effect.CHANGED
    assert bench.cut_volumes.chain(data.id) == in_use
    assert bench.guest_read(BOSS) == "4"


def guests_awaken(bench: Bench, awakening: Awakening) -> None:
    bench.define(BOSS)
    assert awakening.awaken(BOSS, 1.0, b"x" * 32, 0.3)  # it does not run: that is told, not raised
    bench.boot(BOSS)
    assert awakening.awaken(BOSS, 2_000_000_000.0, b"x" * 32, 10.0) == ""


def recorders_tell_in_order(recorder: Recorder, recorded: NetworkId, other: NetworkId) -> None:
    """On both networks guests tried the ports 80, 443 and 25, in that order."""
    intents = recorder.intents(recorded, after=0, limit=10)
    assert [intent.port for intent in intents] == [80, 443, 25]
    sequences = [intent.sequence for intent in intents]
    assert sequences == sorted(set(sequences)) and sequences[0] >= 1
    assert recorder.intents(recorded, after=sequences[0], limit=1) == intents[1:2]
    assert recorder.intents(recorded, after=sequences[-1], limit=10) == []
    assert recorder.intents(other, after=0, limit=10) == []
    assert recorder.intents(NetworkId("never"), after=0, limit=10) == []


MACHINE_PROMISES = (
    machines_go_on_after_a_cut,
    held_machines_wait_for_the_word,
    paused_machines_stay_paused,
    machines_that_do_not_run_are_not_cut,
    running_machines_fold,
)
