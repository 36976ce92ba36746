"""Cuts of running guests: one instant, memory kept, copies that go on; and every process in it killed."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId, SnapshotId
from forkbed.core.snapshots.records import FreezeMethod
from forkbed.core.systems.goal import MemoryRef
from forkbed.core.systems.spec import ResolvedMachine
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import Power
from forkbed.drivers import liveness, processes
from forkbed.drivers.libvirt import freezing
from forkbed.drivers.libvirt.cuts import LibvirtCuts
from forkbed.drivers.libvirt.freezing import MachineFreeze
from forkbed.drivers.libvirt.guard import ensure_guard, guard_process
from forkbed.drivers.libvirt.monitor import Monitor
from forkbed.drivers.libvirt.pauses import Pauses
from forkbed.drivers.volumes.layer_files import opened_as
from forkbed.drivers.volumes.records import LayerFile
from forkbed.ports.cuts import CutOrder, DiskCut
from forkbed.ports.hypervisor import MachineDefinition, NicAttachment
from forkbed.ports.progress import Silence
from tests.real.bench_host import BenchHost
from tests.real.test_hypervisor import kill_libvirtd, wait_until
from tests.unit.drivers import samples

BOSS = samples.machine("boss", number=1)
OPS = samples.machine("ops", number=2)
FORK_BRIDGE = "fbt0stfk"
Files = Mapping[str, tuple[str, ...]]


@dataclass
class Pair:
    """Two guests that run through all tests of this module, and what cuts them."""

    host: BenchHost
    cuts: LibvirtCuts
    layers: Path
    number: int = 0

    def snapshot_id(self) -> SnapshotId:
        self.number += 1
        return SnapshotId(f"snap{self.number}")

    def overlay(self, backing: str) -> str:
        path = self.layers / f"{uuid4().hex}.qcow2"
        processes.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "qcow2", path])
        return str(path)

    def order(self, machine: ResolvedMachine, *, memory: bool = True) -> CutOrder:
        files = self.cuts.disks_in_use(machine.id)
        disks = [
            DiskCut(serial, self.overlay(chain[0])) for serial, chain in files.items() if serial != "seed"
        ]
        return CutOrder(machine.id, tuple(disks), memory)

    def definition(self, machine: ResolvedMachine, files: Files, **changed: Any) -> MachineDefinition:
        """The machine on these files (active layer first)."""
        definition = self.host.definition({"boss": BOSS, "ops": OPS}[machine.name])
        disks = tuple(
            replace(
                disk, path=files[disk.serial][0], chain=tuple((f, "qcow2") for f in files[disk.serial][1:])
            )
            if disk.serial in files
            else disk
            for disk in definition.disks
        )
        return replace(definition, machine=machine, disks=disks, **changed)

    def fork(self, machine: ResolvedMachine, frozen: Files) -> MachineDefinition:
        """Define a copy of the machine, on overlays of its frozen files and on the other bridge."""
        unique = uuid4()
        copy = replace(machine, id=MachineId(unique.hex[:12]), uuid=str(unique), generation_uuid=str(uuid4()))
        files = {
            serial: (self.overlay(chain[0]), *chain) for serial, chain in frozen.items() if serial != "seed"
        }
        nics = tuple(
            NicAttachment(FORK_BRIDGE, f"fbt0st{unique.hex[:8]}", nic.mac, 1442) for nic in machine.nics
        )
        definition = self.definition(copy, files, nics=nics, system_name=f"fork-{unique.hex[:6]}")
        self.host.hypervisor.define(definition)
        return definition

    @contextmanager
    def forks(self, *wanted: tuple[ResolvedMachine, Files]) -> Iterator[list[MachineDefinition]]:
        """Copies that are gone afterwards."""
        made = [self.fork(machine, frozen) for machine, frozen in wanted]
        try:
            yield made
        finally:
            for definition in made:
                self.host.hypervisor.force_off(definition.machine.id)
                self.host.hypervisor.undefine(definition.machine.id)

    def agent(self, machine_id: MachineId, command: str, **arguments: object) -> Any:
        text = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(self.host.hypervisor.agent_command(machine_id, text, 5))["return"]

    def file(self, machine_id: MachineId, path: str) -> str:
        handle = self.agent(machine_id, "guest-file-open", path=path, mode="r")
        content = self.agent(machine_id, "guest-file-read", handle=handle)
        self.agent(machine_id, "guest-file-close", handle=handle)
        return base64.b64decode(content["buf-b64"]).decode()

    def uptime(self, machine_id: MachineId) -> float:
        """Waits for the agent."""

        def answers() -> bool:
            try:
                self.agent(machine_id, "guest-ping")
            except OperationalError:
                return False
            return True

        wait_until(answers, f"the agent of {machine_id}")
        return float(self.file(machine_id, "/proc/uptime").split()[0])

    def power(self, machine_id: MachineId) -> Power:
        return {m.machine_id: m.power for m in self.host.hypervisor.machines()}[machine_id]

    def monitor(self, machine: ResolvedMachine) -> Monitor:
        def make(domain: Any) -> Monitor:
            return Monitor(domain, machine.name)

        return self.host.hypervisor.on_domain(machine.id, "reach its monitor", make)

    def notes(self) -> list[Path]:
        return [p for p in (self.host.lab.paths.state / "pauses").glob("*") if p.stem != "guard"]

    def assert_unharmed(self) -> None:
        """Both run, answer, and nothing of a cut is left in QEMU or on the host."""
        wait_until(lambda: not self.notes(), "the last note")
        for machine in (BOSS, OPS):
            assert self.power(machine.id) is Power.RUNNING
            before = self.uptime(machine.id)
            assert self.monitor(machine).status() == "running"
            assert not self.monitor(machine).background_is_on()
            wait_until(lambda m=machine, b=before: self.uptime(m.id) > b, "the guest's clock goes on")  # type: ignore[misc]
            status, output, _ = self.host.run(
                machine, "sh", "-c", "echo $((40 + 2)) >/root/x; sync; cat /root/x"
            )
            assert (status, output) == (0, b"42\n")


@pytest.fixture(scope="module")
def started(bench_host: BenchHost) -> Iterator[Pair]:
    lab = bench_host.lab
    lab.run(["ip", "link", "add", FORK_BRIDGE, "type", "bridge", "forward_delay", "0"])
    lab.run(["ip", "link", "set", FORK_BRIDGE, "up"])
    layers = lab.paths.state / "cut-layers"
    layers.mkdir()
    pair = Pair(bench_host, LibvirtCuts(bench_host.hypervisor, lab.paths.state), layers)
    try:
        bench_host.boot(BOSS)
        bench_host.boot(OPS)
        yield pair
    finally:
        for machine in (BOSS, OPS):
            bench_host.discard(machine)
        guard = guard_process(lab.paths.state / "pauses")
        if guard is not None:
            liveness.end(guard, grace_s=1)
        lab.run(["ip", "link", "del", FORK_BRIDGE])
        for name in ("cut-layers", "memory", "pauses", "pipes"):
            shutil.rmtree(lab.paths.state / name, ignore_errors=True)


@pytest.fixture
def pair(started: Pair) -> Iterator[Pair]:
    yield started
    started.assert_unharmed()
    for view in started.cuts.memories():
        started.cuts.remove_memory(view.snapshot_id)
    assert list((started.host.lab.paths.state / "memory").glob("*")) == []


def memory_of(snapshot_id: SnapshotId, machine: ResolvedMachine) -> MemoryRef:
    return MemoryRef(snapshot_id, machine.id)


def go_on(pair: Pair, fork: MachineDefinition, memory: MemoryRef) -> Effect:
    """Bring a machine back and let it run."""
    effect = pair.cuts.restore(fork, memory)
    pair.host.hypervisor.resume(fork.machine.id)
    return effect


def test_two_guests_go_on_in_copies_from_one_instant(pair: Pair) -> None:
    hypervisor, cuts = pair.host.hypervisor, pair.cuts
    frozen = {m.id: cuts.disks_in_use(m.id) for m in (BOSS, OPS)}
    boots = {m.machine_id: m.boot_id for m in hypervisor.machines()}
    uptime = {m.name: pair.uptime(m.id) for m in (BOSS, OPS)}
    pair.host.run(BOSS, "sh", "-c", "echo kept in memory >/run/mark; echo on disk >/root/mark")
    snapshot_id = pair.snapshot_id()
    assert cuts.refusal(BOSS.id) == ""
    orders = [pair.order(BOSS), pair.order(OPS)]
    cut = cuts.cut(snapshot_id, orders, hold=False, quiesce=False)
    for outcome in cut.outcomes:
        assert (outcome.power, outcome.method, outcome.note) == (Power.RUNNING, FreezeMethod.BACKGROUND, "")
        assert outcome.resumed_at is not None
        assert max(o.frozen_at for o in cut.outcomes) <= min(o.resumed_at or 0 for o in cut.outcomes)
    with pair.forks((BOSS, frozen[BOSS.id]), (OPS, frozen[OPS.id]), (BOSS, frozen[BOSS.id])) as forks:
        restores = [
            threading.Thread(target=go_on, args=(pair, fork, memory_of(snapshot_id, machine)))
            for fork, machine in zip(forks[:2], (BOSS, OPS), strict=True)
        ]
        for thread in restores:
            thread.start()  # while the memory may still be on its way
        sizes = cut.await_memory(Silence())
        for thread in restores:
            thread.join()
        assert {view.machine_id: view.size_bytes for view in cuts.memories()} == sizes
        assert all(0 < size < cuts.memory_file_bytes(BOSS.id) for size in sizes.values())
        stored = list((pair.host.lab.paths.state / "memory" / snapshot_id).iterdir())
        assert len(stored) == 4
        assert {path.stat().st_mode & 0o777 for path in stored} == {0o600}
        assert cuts.restore(forks[0], memory_of(snapshot_id, BOSS)) is Effect.ALREADY
        assert go_on(pair, forks[2], memory_of(snapshot_id, BOSS)) is Effect.CHANGED
        machines = {m.machine_id: m for m in hypervisor.machines()}
        for fork in forks:
            seen = machines[fork.machine.id]
            assert (seen.power, seen.name) == (Power.RUNNING, fork.machine.name)
            assert seen.running_digest == fork.digest
            assert seen.boot_id not in ("", *boots.values())
            assert pair.uptime(fork.machine.id) >= uptime[fork.machine.name]
            active = {disk.serial: disk.path for disk in fork.disks}
            assert {s: f[0] for s, f in cuts.disks_in_use(fork.machine.id).items()} == active
        for fork in (forks[0], forks[2]):
            assert pair.file(fork.machine.id, "/run/mark") == "kept in memory\n"
            assert pair.file(fork.machine.id, "/root/mark") == "on disk\n"
        assert {m.machine_id: m.boot_id for m in hypervisor.machines() if m.machine_id in boots} == boots
    for order in orders:
        use = cuts.disks_in_use(order.machine_id)
        assert {disk.serial: disk.overlay for disk in order.disks}.items() <= {
            s: f[0] for s, f in use.items()
        }.items()
        machine = BOSS if order.machine_id == BOSS.id else OPS
        files = {serial: chain for serial, chain in use.items() if serial != "seed"}
        definition = pair.definition(machine, files)
        assert hypervisor.define(definition) is Effect.CHANGED, "the digest is the same, the disks are not"
        assert hypervisor.define(definition) is Effect.ALREADY


def test_a_paused_guest_stays_paused_and_comes_back_paused(pair: Pair) -> None:
    hypervisor, cuts = pair.host.hypervisor, pair.cuts
    frozen, snapshot_id = cuts.disks_in_use(BOSS.id), pair.snapshot_id()
    hypervisor.pause(BOSS.id)
    cut = cuts.cut(snapshot_id, [pair.order(BOSS), pair.order(OPS)], hold=False, quiesce=False)
    boss, ops = cut.outcomes
    assert (boss.power, boss.method, boss.resumed_at) == (Power.PAUSED, FreezeMethod.PAUSED, None)
    assert (ops.power, ops.method) == (Power.RUNNING, FreezeMethod.BACKGROUND)
    cut.await_memory(Silence())
    assert pair.power(BOSS.id) is Power.PAUSED
    with pytest.raises(OperationalError) as failure:
        cuts.commit_layer(BOSS.id, "root", "a", "b", Silence())
    assert failure.value.kind is Kind.CONFLICT
    again = pair.snapshot_id()
    (second,) = cuts.cut(again, [pair.order(BOSS)], hold=False, quiesce=False).outcomes
    assert "cannot save a paused machine twice" in second.note
    with pair.forks((BOSS, frozen)) as (fork,):
        cuts.restore(fork, memory_of(snapshot_id, BOSS))
        assert pair.power(fork.machine.id) is Power.PAUSED
        hypervisor.resume(fork.machine.id)
        pair.uptime(fork.machine.id)
    hypervisor.resume(BOSS.id)
    saved = str(pair.layers / "saved")
    hypervisor.on_domain(BOSS.id, "save it", lambda domain: domain.save(saved))
    hypervisor.on_host("", "restore it", lambda connection: connection.restore(saved))


def test_held_guests_stand_still_until_let_go(pair: Pair) -> None:
    cut = pair.cuts.cut(pair.snapshot_id(), [pair.order(BOSS), pair.order(OPS)], hold=True, quiesce=False)
    assert {o.resumed_at for o in cut.outcomes} == {None}
    assert len(cut.await_memory(Silence())) == len(pair.cuts.memories()) == 2
    assert {pair.power(m.id) for m in (BOSS, OPS)} == {Power.PAUSED}
    assert len(pair.notes()) == 1
    cut.resume()
    assert {pair.power(m.id) for m in (BOSS, OPS)} == {Power.RUNNING}
    with pytest.raises(OperationalError) as failure:
        cut.give_up()
    assert failure.value.kind is Kind.CONFLICT


def test_held_guests_are_let_go_before_their_memory_is_written(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_id, again = pair.snapshot_id(), pair.snapshot_id()
    with monkeypatch.context() as slow:
        slow.setattr(freezing, "_BANDWIDTH", 1024**2)
        cut = pair.cuts.cut(snapshot_id, [pair.order(BOSS), pair.order(OPS)], hold=True, quiesce=False)
    asked_at = time.monotonic()
    cut.resume()
    assert time.monotonic() - asked_at < 10
    assert {pair.power(m.id) for m in (BOSS, OPS)} == {Power.RUNNING}
    with pytest.raises(OperationalError) as failure:
        cut.await_memory(Silence())
    assert failure.value.kind is Kind.FAULT
    pair.cuts.remove_memory(snapshot_id)
    for machine in (BOSS, OPS):
        pair.uptime(machine.id)
    cut = pair.cuts.cut(again, [pair.order(BOSS), pair.order(OPS)], hold=False, quiesce=False)
    assert [o.method for o in cut.outcomes] == [FreezeMethod.BACKGROUND] * 2, "nothing is left in QEMU"
    assert len(cut.await_memory(Silence())) == 2


def test_held_guests_are_let_go_also_after_libvirtd_died(pair: Pair) -> None:
    cut = pair.cuts.cut(pair.snapshot_id(), [pair.order(BOSS)], hold=True, quiesce=False)
    kill_libvirtd(pair.host.lab)
    cut.resume()
    assert pair.power(BOSS.id) is Power.RUNNING


def test_a_cut_waits_for_the_memory_of_the_one_before(pair: Pair) -> None:
    frozen, first, second = pair.cuts.disks_in_use(BOSS.id), pair.snapshot_id(), pair.snapshot_id()
    cuts = []
    for snapshot_id in (first, second):
        cuts.append(pair.cuts.cut(snapshot_id, [pair.order(BOSS)], hold=False, quiesce=False))
    assert [o.method for cut in cuts for o in cut.outcomes] == [FreezeMethod.BACKGROUND] * 2
    for cut in cuts:
        cut.await_memory(Silence())
    with pair.forks((BOSS, frozen)) as (fork,):
        go_on(pair, fork, memory_of(first, BOSS))
        pair.uptime(fork.machine.id)


def test_guests_given_up_are_never_resumed_and_go_back_to_the_cut(pair: Pair) -> None:
    hypervisor, cuts, snapshot_id = pair.host.hypervisor, pair.cuts, pair.snapshot_id()
    frozen = cuts.disks_in_use(BOSS.id)
    cuts.cut(snapshot_id, [pair.order(BOSS)], hold=False, quiesce=False).await_memory(Silence())
    pair.host.run(BOSS, "touch", "/root/after-the-cut", "/run/after-the-cut")
    uptime = pair.uptime(BOSS.id)
    kept = pair.snapshot_id()
    cut = cuts.cut(kept, [pair.order(BOSS)], hold=True, quiesce=False)
    assert not cuts.was_given_up(kept)
    cut.give_up()
    cuts.recover()
    assert cuts.was_given_up(kept)
    assert pair.power(BOSS.id) is Power.PAUSED
    hypervisor.force_off(BOSS.id)
    files = {serial: (pair.overlay(chain[0]), *chain) for serial, chain in frozen.items() if serial != "seed"}
    definition = pair.definition(replace(BOSS, generation_uuid=str(uuid4())), files)
    assert hypervisor.define(definition) is Effect.CHANGED
    assert go_on(pair, definition, memory_of(snapshot_id, BOSS)) is Effect.CHANGED
    cuts.forget_given_up(kept)
    assert not cuts.was_given_up(kept)
    pair.host.guests.forget(BOSS.id)  # its connections are of another time
    assert pair.uptime(BOSS.id) < uptime + 60
    for path in ("/root/after-the-cut", "/run/after-the-cut"):
        with pytest.raises(OperationalError):
            pair.file(BOSS.id, path)


def test_quiesced_disks(pair: Pair) -> None:
    pair.host.run(BOSS, "sh", "-c", "echo fresh >/srv/data/fresh")
    frozen = pair.cuts.disks_in_use(BOSS.id)
    orders = [pair.order(m, memory=False) for m in (BOSS, OPS)]
    cut = pair.cuts.cut(pair.snapshot_id(), orders, hold=False, quiesce=True)
    for outcome in cut.outcomes:
        assert (outcome.method, outcome.quiesced, outcome.note) == (FreezeMethod.DISKS, True, "")
    assert cut.await_memory(Silence()) == {}
    data = pair.layers / "data.raw"
    processes.run(["qemu-img", "convert", "-U", "-O", "raw", frozen["vol-data"][0], data])
    assert b"fresh\n" in data.read_bytes(), "what was in the guest's page cache is on the disk of the cut"


def test_without_an_agent_the_cut_says_that_it_is_not_quiesced(pair: Pair) -> None:
    pair.host.run(BOSS, "sh", "-c", "kill -STOP $(pidof qemu-ga)")
    orders = [pair.order(m, memory=False) for m in (BOSS, OPS)]
    boss, ops = pair.cuts.cut(pair.snapshot_id(), orders, hold=False, quiesce=True).outcomes
    assert not boss.quiesced
    assert boss.note.startswith("not quiesced: ")
    assert ops.quiesced
    pair.host.run(BOSS, "sh", "-c", "kill -CONT $(pidof qemu-ga)", via="ssh")


def test_layers_are_folded_while_the_guest_runs(pair: Pair) -> None:
    cuts = pair.cuts
    for number in range(3):
        pair.host.run(BOSS, "sh", "-c", f"echo folded-{number} >/root/fold-{number}; sync")
        cuts.cut(pair.snapshot_id(), [pair.order(BOSS, memory=False)], hold=False, quiesce=False)
    chain = cuts.disks_in_use(BOSS.id)["root"]
    assert cuts.commit_layer(BOSS.id, "root", chain[1], chain[2], Silence()) is Effect.CHANGED
    assert cuts.disks_in_use(BOSS.id)["root"] == (chain[0], *chain[2:])
    assert cuts.commit_layer(BOSS.id, "root", chain[1], chain[2], Silence()) is Effect.ALREADY
    with pytest.raises(OperationalError) as failure:
        cuts.commit_layer(BOSS.id, "root", chain[0], chain[2], Silence())
    assert failure.value.kind is Kind.CONFLICT
    image = chain[-1]
    assert cuts.pull_layers(BOSS.id, "root", image, Silence()) is Effect.CHANGED
    assert cuts.disks_in_use(BOSS.id)["root"] == (chain[0], image)
    cuts.flush(BOSS.id, "root")
    raw = pair.layers / "root.raw"
    options = opened_as([LayerFile(chain[0]), LayerFile(image)])
    processes.run(["qemu-img", "convert", "-U", "-O", "raw", f"json:{json.dumps(options)}", raw])
    content = raw.read_bytes()
    held = [number for number in range(3) if f"folded-{number}\n".encode() in content]
    assert held == [0, 1, 2], "what was pulled is in the file, whatever becomes of QEMU now"
    assert cuts.pull_layers(BOSS.id, "root", image, Silence()) is Effect.ALREADY
    assert cuts.pull_layers(BOSS.id, "vol-data", "", Silence()) is Effect.CHANGED
    assert len(cuts.disks_in_use(BOSS.id)["vol-data"]) == 1
    _, content, _ = pair.host.run(BOSS, "sh", "-c", "echo 3 >/proc/sys/vm/drop_caches; cat /root/fold-*")
    assert content == b"folded-0\nfolded-1\nfolded-2\n"


def test_no_room_for_the_memory_is_refused_before_the_pause(pair: Pair, tmp_path: Path) -> None:
    processes.run(["mount", "-t", "tmpfs", "-o", "size=300m", "forkbed-test", tmp_path])
    try:
        ensure_guard(
            tmp_path / "pauses", pair.host.hypervisor.uri
        )  # later it might find no room for its note
        cuts = LibvirtCuts(pair.host.hypervisor, tmp_path)
        before = pair.cuts.disks_in_use(BOSS.id)
        events: list[object] = []
        end = pair.host.hypervisor.watch(events.append)
        with pytest.raises(OperationalError) as failure:
            cuts.cut(pair.snapshot_id(), [pair.order(BOSS), pair.order(OPS)], hold=False, quiesce=False)
        end()
        assert failure.value.kind is Kind.CONFLICT
        assert "no room for its memory" in failure.value.brief
        assert [str(event) for event in events if "PAUSED" in str(event)] == []
        assert pair.cuts.disks_in_use(BOSS.id) == before
        assert list((tmp_path / "memory").glob("*")) == []
        # Those of other tests do not know what these cuts have yet to clear up.
        wait_until(lambda: Pauses(tmp_path / "pauses").all() == [], "the last note")
    finally:
        guard = guard_process(tmp_path / "pauses")
        assert guard is not None
        assert liveness.end(guard, grace_s=1)
        processes.run(["umount", tmp_path])


def test_where_background_snapshots_are_refused_memory_is_written_while_it_stands_still(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Monitor.set_background

    def refuse(self: Monitor, on: bool) -> None:
        if on:
            raise OperationalError(Kind.FAULT, "", "QEMU refuses it: not supported by host kernel")
        real(self, on)

    monkeypatch.setattr(Monitor, "set_background", refuse)
    frozen, snapshot_id = pair.cuts.disks_in_use(BOSS.id), pair.snapshot_id()
    (outcome,) = pair.cuts.cut(snapshot_id, [pair.order(BOSS)], hold=False, quiesce=False).outcomes
    assert outcome.method is FreezeMethod.PAUSED
    assert "not supported by host kernel" in outcome.note
    assert "until its memory was written" in outcome.note
    assert outcome.resumed_at is not None
    with pair.forks((BOSS, frozen)) as (fork,):
        go_on(pair, fork, memory_of(snapshot_id, BOSS))
        pair.uptime(fork.machine.id)


def test_a_memory_that_ends_early_gives_no_machine(pair: Pair) -> None:
    frozen, snapshot_id = pair.cuts.disks_in_use(BOSS.id), pair.snapshot_id()
    pair.cuts.cut(snapshot_id, [pair.order(BOSS)], hold=False, quiesce=False).await_memory(Silence())
    note = pair.host.lab.paths.state / "memory" / snapshot_id / f"{BOSS.id}.json"
    content = json.loads(note.read_bytes())
    note.write_text(json.dumps(content | {"size_bytes": content["size_bytes"] // 2}))
    with pair.forks((BOSS, frozen)) as (fork,):
        with pytest.raises(OperationalError) as failure:
            pair.cuts.restore(fork, memory_of(snapshot_id, BOSS))
        assert failure.value.kind is Kind.FAULT
        assert pair.power(fork.machine.id) is Power.OFF
    with pytest.raises(OperationalError) as failure, pair.forks((BOSS, frozen)) as (fork,):
        pair.cuts.restore(fork, memory_of(SnapshotId("none"), BOSS))
    assert failure.value.kind is Kind.NOT_FOUND


def kill_in_a_cut(pair: Pair, point: str) -> None:
    """Have another process make a cut of both guests and die at that point."""
    paths = pair.host.lab.paths
    orders = [pair.order(BOSS), pair.order(OPS)]
    order = {
        "uri": pair.host.lab.libvirt_uri,
        "state": str(paths.state),
        "console": str(paths.state / "console"),
        "point": point,
        "disks": {o.machine_id: {disk.serial: disk.overlay for disk in o.disks} for o in orders},
    }
    argv = [sys.executable, "-m", "tests.real.cut_victim", json.dumps(order)]
    done = processes.run(argv, accept=None, timeout_s=60)
    assert done.status == -signal.SIGKILL, done.complaint


@pytest.mark.parametrize("point", ["prepared", "paused", "disks cut", "streaming"])
def test_a_killed_controller_leaves_unharmed_guests(pair: Pair, point: str) -> None:
    kill_in_a_cut(pair, point)
    wait_until(
        lambda: {pair.power(m.id) for m in (BOSS, OPS)} == {Power.RUNNING} and not pair.notes(), "all run"
    )
    pair.cuts.recover()
    assert pair.cuts.memories() == []


def test_controller_and_guard_killed(pair: Pair) -> None:
    directory = pair.host.lab.paths.state / "pauses"
    pair.cuts.cut(pair.snapshot_id(), [pair.order(BOSS, memory=False)], hold=False, quiesce=False)
    guard = guard_process(directory)
    assert guard is not None
    # Stopped, it is alive to whoever looks, and does nothing; then it is killed.
    liveness.send(guard, signal.SIGSTOP)
    try:
        kill_in_a_cut(pair, "paused")
    finally:
        liveness.send(guard, signal.SIGKILL)
    assert {pair.power(m.id) for m in (BOSS, OPS)} == {Power.PAUSED}
    pair.cuts.recover()
    assert {pair.power(m.id) for m in (BOSS, OPS)} == {Power.RUNNING}
    wait_until(lambda: guard_process(directory) not in (None, guard), "another guard")


def test_a_controller_that_hangs_loses_its_cut(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    real = MachineFreeze.cut

    def late(self: MachineFreeze) -> None:
        wait_until(lambda: any(p.suffix == ".release" for p in pair.notes()) or not pair.notes(), "the guard")
        real(self)

    monkeypatch.setattr(MachineFreeze, "cut", late)
    with pytest.raises(OperationalError) as failure:
        pair.cuts.cut(pair.snapshot_id(), [pair.order(BOSS)], hold=False, quiesce=False)
    assert "the guard let them go on" in failure.value.brief
    assert pair.cuts.memories() == []


@pytest.mark.parametrize("stage", ["freeze", "cut"])
def test_libvirtd_killed_in_a_cut(pair: Pair, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    real: Callable[[MachineFreeze], None] = getattr(MachineFreeze, stage)

    def then_kill(self: MachineFreeze) -> None:
        real(self)
        if self.order.machine_id == BOSS.id:
            kill_libvirtd(pair.host.lab)

    monkeypatch.setattr(MachineFreeze, stage, then_kill)
    frozen, snapshot_id = pair.cuts.disks_in_use(BOSS.id), pair.snapshot_id()
    try:
        cut = pair.cuts.cut(snapshot_id, [pair.order(BOSS), pair.order(OPS)], hold=False, quiesce=False)
        cut.await_memory(Silence())
    except OperationalError as error:
        assert error.kind in (Kind.UNREACHABLE, Kind.FAULT, Kind.BUSY)
        wait_until(lambda: pair.cuts.memories() == [], "no memory")
        return
    with pair.forks((BOSS, frozen)) as (fork,):
        go_on(pair, fork, memory_of(snapshot_id, BOSS))
        pair.uptime(fork.machine.id)
