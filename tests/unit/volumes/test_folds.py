"""Folds of real overlay volumes: what is copied, what is refused, and what a half-done one leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import SnapshotId
from forkbed.core.systems.steps import Effect
from forkbed.core.volumes.layers import Commit, Fold, Pull
from forkbed.drivers import processes
from forkbed.drivers.volumes import block_jobs, folding
from forkbed.ports.progress import Cancelled, Silence
from tests.unit.volumes import qcow2
from tests.unit.volumes.conftest import CLUSTER, ROOT, Bench
from tests.unit.volumes.world import DISK_BYTES

SHOWN = [0xEE, 2, 3, 4, 5, 0]


def path(bench: Bench, name: str) -> str:
    return str(bench.directory / name)


def header(file: str) -> str:
    information = json.loads(processes.run(["qemu-img", "info", "--output=json", file]).stdout)
    return str(information["backing-filename"])


def held(bench: Bench, name: str) -> list[int]:
    """Which clusters a layer holds itself."""
    return [cluster for cluster, value in enumerate(qcow2.read([path(bench, name)])[::CLUSTER]) if value]


def test_a_commit_writes_one_layer_into_the_next(layered: Bench) -> None:
    fold = Commit(path(layered, "root1.two.qcow2"), path(layered, "root1.one.qcow2"))
    assert layered.driver.fold_offline(ROOT.id, fold, Silence()) is Effect.CHANGED
    assert layered.driver.fold_offline(ROOT.id, fold, Silence()) is Effect.ALREADY
    assert layered.names() == ["root1.three.qcow2", "root1.one.qcow2", "root1.qcow2"]
    assert layered.files() == {*layered.names(), "root1.json"}
    assert layered.shown(ROOT) == SHOWN
    assert header(path(layered, "root1.three.qcow2")) == path(layered, "root1.one.qcow2")
    assert held(layered, "root1.one.qcow2") == [2, 3]


def test_a_pull_copies_what_lies_between_and_no_more(layered: Bench) -> None:
    fold = Pull(path(layered, "root1.one.qcow2"))
    assert layered.driver.fold_offline(ROOT.id, fold, Silence()) is Effect.CHANGED
    assert layered.driver.fold_offline(ROOT.id, fold, Silence()) is Effect.ALREADY
    assert layered.names() == ["root1.three.qcow2", "root1.one.qcow2", "root1.qcow2"]
    assert layered.shown(ROOT) == SHOWN
    assert held(layered, "root1.three.qcow2") == [3, 4]
    assert header(path(layered, "root1.three.qcow2")) == path(layered, "root1.one.qcow2")


def test_a_pull_of_all_leaves_the_image(layered: Bench) -> None:
    assert layered.driver.plan_fold(ROOT.id, 5) is None
    layered.driver.fold_offline(ROOT.id, Pull(""), Silence())
    assert layered.driver.chain(ROOT.id) == (path(layered, "root1.three.qcow2"),)
    assert layered.shown(ROOT) == SHOWN
    assert Path(layered.image.path).exists()


def test_a_layer_larger_than_the_one_it_goes_into_keeps_its_end(layered: Bench) -> None:
    larger = ROOT.__class__(ROOT.id, "root", 2 * DISK_BYTES, ROOT.image_id)
    layered.driver.grow(larger)
    qcow2.write(layered.driver.chain(ROOT.id), [(2 * DISK_BYTES - CLUSTER, CLUSTER, 77)])
    layered.cut("grown")
    layered.driver.release_cut(SnapshotId("grown"))
    before = qcow2.read(layered.driver.chain(ROOT.id))
    assert before[-1] == 77
    while fold := layered.driver.plan_fold(ROOT.id, 3):
        layered.driver.fold_offline(ROOT.id, fold, Silence())
    assert len(layered.names()) == 2
    assert qcow2.read(layered.driver.chain(ROOT.id)) == before


def test_what_others_stand_on_is_not_written_to(layered: Bench) -> None:
    layered.cut("kept")
    layered.write(ROOT, 5, 6)
    chain = layered.driver.chain(ROOT.id)
    for fold in (Commit(chain[2], chain[3]), Commit(chain[1], chain[2]), Commit(chain[4], chain[5])):
        with pytest.raises(OperationalError, match="something else stands on") as failure:
            layered.driver.fold_offline(ROOT.id, fold, Silence())
        assert failure.value.kind is Kind.CONFLICT
    assert layered.driver.plan_fold(ROOT.id, 3) == Pull(chain[-2])
    with pytest.raises(OperationalError, match="is its active layer"):
        layered.driver.fold_offline(ROOT.id, Commit(chain[0], chain[1]), Silence())
    with pytest.raises(OperationalError, match="not right below"):
        layered.driver.fold_offline(ROOT.id, Commit(chain[2], chain[4]), Silence())
    assert layered.driver.chain(ROOT.id) == chain


def test_nothing_is_folded_while_a_cut_is_open(layered: Bench) -> None:
    layered.driver.prepare_cut(ROOT.id, SnapshotId("open"))
    assert layered.driver.plan_fold(ROOT.id, 1) is None
    with pytest.raises(OperationalError, match="is not finished"):
        layered.driver.fold_offline(ROOT.id, Pull(""), Silence())


def test_headers_are_not_followed(layered: Bench, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"\x99" * DISK_BYTES)
    for name in layered.names():
        processes.run(["qemu-img", "rebase", "-u", "-b", secret, "-F", "raw", path(layered, name)])
    assert layered.shown(ROOT) == SHOWN
    for limit in (4, 1):
        fold = layered.driver.plan_fold(ROOT.id, limit)
        assert fold is not None
        layered.driver.fold_offline(ROOT.id, fold, Silence())
        assert layered.shown(ROOT) == SHOWN
    layered.driver.grow(ROOT.__class__(ROOT.id, "root", 2 * DISK_BYTES, ROOT.image_id))
    assert layered.shown(ROOT) == SHOWN


def test_layers_that_a_machine_uses_are_refused(layered: Bench) -> None:
    chain = layered.driver.chain(ROOT.id)
    machine = processes.spawn(
        ["qemu-io", "-f", "qcow2", chain[0]], stdin=processes.PIPE, stdout=processes.PIPE, own_session=True
    )
    try:
        assert machine.stdin is not None
        assert machine.stdout is not None
        machine.stdin.write(b"length\n")
        machine.stdin.flush()
        machine.stdout.readline()  # it has opened the files by now
        for fold in (Commit(chain[2], chain[3]), Pull(chain[3])):
            with pytest.raises(OperationalError, match="while a machine uses them") as failure:
                layered.driver.fold_offline(ROOT.id, fold, Silence())
            assert failure.value.kind is Kind.CONFLICT
    finally:
        processes.kill_group(machine)
        machine.communicate()
    assert layered.driver.chain(ROOT.id) == chain
    assert layered.shown(ROOT) == SHOWN


def test_a_missing_file_is_told_and_changes_nothing(layered: Bench) -> None:
    chain = layered.driver.chain(ROOT.id)
    Path(chain[-2]).unlink()
    with pytest.raises(OperationalError, match=r"cannot be folded: .*No such file") as failure:
        layered.driver.fold_offline(ROOT.id, Pull(chain[3]), Silence())
    assert failure.value.kind is Kind.FAULT
    assert layered.driver.chain(ROOT.id) == chain


@pytest.mark.parametrize("pulling", [True, False])
def test_half_a_fold_shows_the_same(layered: Bench, *, pulling: bool) -> None:
    chain = layered.driver.chain(ROOT.id)
    # what a fold that was killed has written: into the active layer what lies below it, or of a layer into the next
    layers, cluster = (chain[:1], 3) if pulling else (chain[2:], 3)
    qcow2.write(layers, [(cluster * CLUSTER, CLUSTER, SHOWN[cluster])])
    layered.restart()
    assert layered.shown(ROOT) == SHOWN
    fold: Fold = Pull(chain[3]) if pulling else Commit(chain[1], chain[2])
    layered.driver.fold_offline(ROOT.id, fold, Silence())
    assert layered.shown(ROOT) == SHOWN


class _Impatient(Silence):
    """Cancels a fold at the second look at it."""

    looks = 0

    def check_cancelled(self) -> None:
        self.looks += 1
        if self.looks == 2:
            raise Cancelled


@pytest.mark.parametrize("pulling", [True, False])
def test_a_cancelled_fold_leaves_the_chain(
    layered: Bench, monkeypatch: pytest.MonkeyPatch, *, pulling: bool
) -> None:
    job = block_jobs.job

    def slow_job(*arguments: object) -> tuple[str, dict[str, object]]:
        command, options = job(*arguments)  # type: ignore[arg-type]
        return command, options | {"speed": CLUSTER}  # bytes per second

    monkeypatch.setattr(block_jobs, "job", slow_job)
    chain = layered.driver.chain(ROOT.id)
    fold: Fold = Pull("") if pulling else Commit(chain[1], chain[2])
    impatient = _Impatient()
    with pytest.raises(Cancelled):
        layered.driver.fold_offline(ROOT.id, fold, impatient)
    assert impatient.looks == 2
    assert layered.driver.chain(ROOT.id) == chain
    assert layered.shown(ROOT) == SHOWN
    monkeypatch.undo()
    layered.driver.fold_offline(ROOT.id, fold, Silence())  # and it may be begun again
    assert layered.shown(ROOT) == SHOWN


def test_while_a_fold_runs_nobody_else_changes_the_chain(
    layered: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[OperationalError] = []
    real = block_jobs.fold_files

    def fold_files(*arguments: object, **named: object) -> None:
        actions: tuple[Callable[[], object], ...] = (
            lambda: layered.driver.prepare_cut(ROOT.id, SnapshotId("meanwhile")),
            lambda: layered.driver.remove(ROOT.id),
            lambda: layered.driver.fold_offline(ROOT.id, Pull(""), Silence()),
        )
        for action in actions:
            with pytest.raises(OperationalError) as failure:
                action()
            refused.append(failure.value)
        real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(folding, "fold_files", fold_files)
    layered.driver.fold_offline(ROOT.id, Pull(""), Silence())
    assert [error.kind for error in refused] == [Kind.BUSY] * 3
    assert layered.shown(ROOT) == SHOWN
    layered.cut("afterwards")


def test_only_a_shortened_chain_is_recorded(layered: Bench) -> None:
    chain = layered.driver.chain(ROOT.id)
    assert layered.driver.record_fold(ROOT.id, chain) is Effect.ALREADY
    for wrong in (chain[1:], (chain[0], chain[2], chain[1]), (chain[0], "/elsewhere.qcow2"), ()):
        with pytest.raises(OperationalError, match="does not use the recorded layers") as failure:
            layered.driver.record_fold(ROOT.id, wrong)
        assert failure.value.kind is Kind.FAULT
    assert layered.driver.chain(ROOT.id) == chain


def test_own_bytes_are_those_that_nothing_else_stands_on(layered: Bench) -> None:
    alone = layered.driver.own_bytes()[ROOT.id]
    assert alone >= 4 * CLUSTER
    layered.cut("kept")
    assert layered.driver.own_bytes()[ROOT.id] < CLUSTER * 4
    fork = layered.fork("kept")
    layered.write(fork, 0, 9)
    own = layered.driver.own_bytes()
    assert own[fork.id] >= CLUSTER
    assert own[ROOT.id] < alone - 3 * CLUSTER
    layered.driver.remove(fork.id)
    layered.driver.release_cut(SnapshotId("kept"))
    assert layered.driver.own_bytes()[ROOT.id] >= alone
