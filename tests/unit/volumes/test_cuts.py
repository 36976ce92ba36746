"""Cuts of real overlay volumes: adopting and dropping, standing on what was kept, and what is refused."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import SnapshotId, VolumeId
from forkbed.core.systems.spec import ResolvedVolume, VolumeOrigin
from forkbed.core.systems.steps import Effect
from forkbed.drivers import processes
from forkbed.drivers.volumes.overlays import OverlayVolumes
from tests.unit.drivers import samples
from tests.unit.volumes.conftest import CLUSTER, MACHINE, ROOT, SYSTEM, Bench, on_cut
from tests.unit.volumes.world import DISK_BYTES

NIGHT = SnapshotId("night")
NOON = SnapshotId("noon")


def test_a_cut_is_prepared_then_adopted_by_the_machine_that_moved_on(bench: Bench) -> None:
    bench.write(ROOT, 5, 1)
    overlay = bench.driver.prepare_cut(ROOT.id, NIGHT)
    assert bench.driver.prepare_cut(ROOT.id, NIGHT) == overlay
    assert bench.driver.prepared_cuts() == {ROOT.id: NIGHT}
    assert bench.driver.cuts() == []
    assert stat.S_IMODE(Path(overlay).stat().st_mode) == 0o600
    assert bench.driver.finish_cut(ROOT.id, NIGHT, overlay) is Effect.CHANGED
    assert bench.driver.finish_cut(ROOT.id, NIGHT, overlay) is Effect.ALREADY
    assert bench.driver.prepared_cuts() == {}
    bench.write(ROOT, 5, 2)
    fork = bench.fork("night")
    assert (bench.shown(ROOT)[5], bench.shown(fork)[5]) == (2, 1)
    (view,) = bench.driver.cuts()
    assert (view.snapshot_id, view.volume_id, view.system_id, view.machine_id) == (
        NIGHT,
        ROOT.id,
        SYSTEM,
        MACHINE.id,
    )
    assert (view.machine_name, view.name, view.size_bytes) == ("boss", "root", DISK_BYTES)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in bench.directory.iterdir())


def test_the_whole_chain_is_attached(bench: Bench) -> None:
    bench.cut("night")
    fork = bench.fork("night")
    attachment = bench.driver.attachment(fork)
    assert (attachment.path, *(path for path, _ in attachment.chain)) == bench.driver.chain(fork.id)
    assert bench.driver.chain(fork.id) == (
        str(bench.directory / "fork1.qcow2"),
        str(bench.directory / "root1.qcow2"),
        bench.image.path,
    )


def test_while_a_cut_is_open_its_overlay_is_attached(bench: Bench) -> None:
    below = bench.driver.attachment(ROOT)
    overlay = bench.driver.prepare_cut(ROOT.id, NIGHT)
    attachment = bench.driver.attachment(ROOT)
    assert attachment.path == overlay
    assert attachment.chain == ((below.path, "qcow2"), *below.chain)


def test_a_cut_that_the_machine_did_not_follow_leaves_nothing(bench: Bench) -> None:
    before = bench.files()
    (below, _) = bench.driver.chain(ROOT.id)
    bench.driver.prepare_cut(ROOT.id, NIGHT)
    assert bench.driver.finish_cut(ROOT.id, NIGHT, below) is Effect.CHANGED
    assert bench.driver.cuts() == []
    assert bench.files() == before


def test_a_cut_kept_just_before_the_controller_died_goes_if_the_machine_went_on_below(bench: Bench) -> None:
    before = bench.files()
    (below, _) = bench.driver.chain(ROOT.id)
    bench.driver.prepare_cut(ROOT.id, NIGHT)
    prepared = (bench.directory / "root1.json").read_bytes()
    bench.driver.finish_cut(ROOT.id, NIGHT, None)
    (bench.directory / "root1.json").write_bytes(prepared)  # as if it had died between the two
    assert bench.driver.finish_cut(ROOT.id, NIGHT, below) is Effect.CHANGED
    assert bench.driver.cuts() == []
    assert bench.files() == before


def test_a_machine_on_an_unknown_layer_is_told(bench: Bench) -> None:
    bench.driver.prepare_cut(ROOT.id, NIGHT)
    with pytest.raises(OperationalError, match="neither its active layer nor the overlay") as failure:
        bench.driver.finish_cut(ROOT.id, NIGHT, "/elsewhere.qcow2")
    assert failure.value.kind is Kind.FAULT
    assert bench.driver.prepared_cuts() == {ROOT.id: NIGHT}


def test_an_overlay_that_somebody_took_away_is_not_passed_over(bench: Bench) -> None:
    Path(bench.driver.prepare_cut(ROOT.id, NIGHT)).unlink()
    with pytest.raises(OperationalError, match="is missing, and may have been written to"):
        bench.driver.finish_cut(ROOT.id, NIGHT, None)


def test_one_cut_at_a_time(bench: Bench) -> None:
    bench.driver.prepare_cut(ROOT.id, NIGHT)
    actions: tuple[Callable[[], object], ...] = (
        lambda: bench.driver.prepare_cut(ROOT.id, NOON),
        lambda: bench.driver.grow(replace(ROOT, size_bytes=2 * DISK_BYTES)),
        lambda: bench.driver.record_fold(ROOT.id, bench.driver.chain(ROOT.id)),
    )
    for action in actions:
        with pytest.raises(OperationalError, match="cut for snapshot night is not finished") as failure:
            action()
        assert failure.value.kind is Kind.CONFLICT
    assert bench.driver.finish_cut(ROOT.id, NOON, None) is Effect.ALREADY
    assert bench.driver.prepared_cuts() == {ROOT.id: NIGHT}


def test_a_snapshot_cuts_a_volume_once(bench: Bench) -> None:
    bench.cut("night")
    with pytest.raises(OperationalError, match="was cut for snapshot night already"):
        bench.driver.prepare_cut(ROOT.id, NIGHT)
    bench.driver.release_cut(NIGHT)
    bench.cut("night")  # under the name of a layer that is in use by now
    assert len(set(bench.names())) == 3
    assert bench.driver.finish_cut(VolumeId("unheard-of"), NIGHT, None) is Effect.ALREADY


def test_a_cut_outlives_its_volume(bench: Bench) -> None:
    bench.write(ROOT, 4, 7)
    bench.cut("night")
    bench.driver.remove(ROOT.id)
    assert bench.files() == {"root1.qcow2", "root1.night.cut"}
    (view,) = bench.driver.cuts()
    assert view.own_bytes >= CLUSTER
    fork = bench.fork("night")
    assert bench.shown(fork)[4] == 7
    assert bench.driver.cuts()[0].own_bytes == 0  # removing it would give nothing back now
    assert bench.driver.release_cut(NIGHT) is Effect.CHANGED
    assert bench.driver.release_cut(NIGHT) is Effect.ALREADY
    assert bench.shown(fork)[4] == 7
    bench.driver.remove(fork.id)
    assert bench.files() == set()


def test_a_volume_made_again_under_its_id_stays_off_the_files_that_others_stand_on(bench: Bench) -> None:
    bench.write(ROOT, 4, 7)
    bench.cut("night")
    bench.driver.remove(ROOT.id)
    assert bench.driver.create(SYSTEM, MACHINE, ROOT, bench.image) is Effect.CHANGED
    assert bench.names() == ["root1.2.qcow2"]
    bench.write(ROOT, 4, 8)
    assert bench.shown(bench.fork("night"))[4] == 7


def test_a_volume_stands_on_its_origin_or_not_at_all(bench: Bench) -> None:
    with pytest.raises(OperationalError, match="not kept any more") as failure:
        bench.fork("night")
    assert failure.value.kind is Kind.NOT_FOUND
    bench.cut("night")
    with pytest.raises(OperationalError, match="smaller than its origin") as failure:
        bench.fork("night", size_bytes=DISK_BYTES // 2)
    assert failure.value.kind is Kind.UNSAFE
    larger = bench.fork("night", size_bytes=2 * DISK_BYTES)
    assert bench.driver.volumes()[0].size_bytes == 2 * DISK_BYTES
    assert bench.driver.volumes()[0].backing == samples.IMAGE
    other = VolumeOrigin(NOON, ROOT.id)
    with pytest.raises(OperationalError, match="another origin"):
        bench.driver.create_on_cut(SYSTEM, MACHINE, replace(larger, origin=other))
    bench.driver.release_cut(NIGHT)
    assert bench.driver.create_on_cut(SYSTEM, MACHINE, larger) is Effect.ALREADY


def test_a_fork_is_renewed_as_often_as_one_likes(bench: Bench) -> None:
    bench.write(ROOT, 4, 1)
    bench.cut("night")
    fork = bench.fork("night")
    for number in range(3):
        bench.write(fork, 4, 10 + number if number else 0)  # zeroes are written, too
        if number == 1:
            bench.cut("of-the-fork", fork)
        assert bench.driver.renew(fork) is Effect.CHANGED
        assert bench.driver.renew(fork) is Effect.ALREADY
        assert bench.shown(fork)[4] == 1
    cut_of_fork = VolumeOrigin(SnapshotId("of-the-fork"), fork.id)
    other = replace(fork, id=VolumeId("other"), origin=cut_of_fork)
    bench.driver.create_on_cut(SYSTEM, MACHINE, other)
    assert bench.shown(other)[4] == 11
    with pytest.raises(OperationalError, match="does not begin with the cut"):
        bench.driver.renew(ROOT)
    with pytest.raises(OperationalError, match="no such volume"):
        bench.driver.renew(on_cut("night", "unheard-of"))


def test_renewing_forgets_an_open_cut(bench: Bench) -> None:
    bench.cut("night")
    fork = bench.fork("night")
    before = bench.files()
    bench.driver.prepare_cut(fork.id, NOON)
    bench.driver.renew(fork)
    assert bench.driver.prepared_cuts() == {}
    assert bench.files() == before - {"fork1.qcow2"} | {"fork1.renewed.qcow2"}


def test_sidecars_from_before_there_were_cuts_are_read(bench: Bench) -> None:
    old = {
        "volume_id": "old1",
        "system_id": "sys1",
        "machine_id": "mach1",
        "machine_name": "boss",
        "name": "root",
        "size_bytes": DISK_BYTES,
        "image_id": samples.IMAGE,
        "layers": [{"path": bench.image.path, "format": "qcow2"}],
    }
    (bench.directory / "old1.json").write_text(json.dumps(old))
    processes.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", bench.directory / "old1.qcow2", str(DISK_BYTES)]
    )
    volume = ResolvedVolume(VolumeId("old1"), "root", DISK_BYTES, samples.IMAGE)
    assert bench.driver.create(SYSTEM, MACHINE, volume, bench.image) is Effect.ALREADY
    assert bench.driver.chain(volume.id) == (str(bench.directory / "old1.qcow2"), bench.image.path)
    bench.write(volume, 0, 3)
    bench.cut("night", volume)
    assert bench.names(volume) == ["old1.night.qcow2", "old1.qcow2"]
    assert bench.shown(volume)[0] == 3


def test_no_name_in_a_sidecar_leads_out_of_the_directory(bench: Bench) -> None:
    sidecar = bench.directory / "root1.json"
    content = json.loads(sidecar.read_bytes())
    for name in ("../secret.qcow2", ".hidden.qcow2", "notes.txt"):
        sidecar.write_text(json.dumps(content | {"active": name}))
        with pytest.raises(OperationalError, match="is not the name of a layer"):
            bench.driver.chain(ROOT.id)


def test_a_broken_sidecar_stops_what_it_concerns_and_not_the_start(bench: Bench) -> None:
    bench.cut("night")
    (bench.directory / "root1.night.cut").write_text("{")
    bench.restart()
    assert len(bench.driver.volumes()) == 1
    with pytest.raises(OperationalError, match="sidecar cannot be read"):
        bench.driver.cuts()
    with pytest.raises(OperationalError, match="sidecar cannot be read"):
        bench.driver.remove(ROOT.id)  # nobody knows which of its layers are needed
    assert "root1.qcow2" in bench.files()


def test_an_active_layer_that_is_gone_does_not_make_the_volume_absent(bench: Bench) -> None:
    bench.cut("night")
    bench.driver.release_cut(NIGHT)
    Path(bench.driver.chain(ROOT.id)[0]).unlink()
    bench.restart()
    assert [view.volume_id for view in bench.driver.volumes()] == [ROOT.id]
    with pytest.raises(OperationalError, match=r"active layer .* is missing") as failure:
        bench.driver.create(SYSTEM, MACHINE, ROOT, bench.image)
    assert failure.value.kind is Kind.FAULT
    assert bench.driver.remove(ROOT.id) is Effect.CHANGED
    assert bench.files() == set()


def test_a_fork_that_was_never_finished_does_not_keep_its_origin_for_ever(bench: Bench) -> None:
    bench.cut("night")
    fork = bench.fork("night")
    (bench.directory / "fork1.qcow2").unlink()  # as if the controller had died just before it was made
    bench.restart()
    assert [view.volume_id for view in bench.driver.volumes()] == [ROOT.id]
    bench.driver.remove(ROOT.id)
    bench.driver.release_cut(NIGHT)
    assert bench.files() == set()
    assert bench.driver.remove(fork.id) is Effect.ALREADY


def test_layers_whose_sidecar_was_lost_stay(bench: Bench) -> None:
    bench.cut("night")
    (bench.directory / "root1.json").unlink()
    bench.restart()
    bench.driver.release_cut(SnapshotId("noon"))
    assert "root1.night.qcow2" in bench.files()
    with pytest.raises(OperationalError, match="has lost its sidecar"):
        bench.driver.create(SYSTEM, MACHINE, ROOT, bench.image)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a.b", ".hidden"])
def test_ids_that_are_paths_are_refused(name: str, tmp_path: Path) -> None:
    driver = OverlayVolumes(tmp_path / "volumes")
    with pytest.raises(ValueError, match="not an id"):
        driver.remove(VolumeId(name))
