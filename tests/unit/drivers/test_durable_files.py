"""Sidecars and volumes on a real file system: what is written, refused and cleaned up."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import SystemId, VolumeId
from forkbed.core.systems.spec import ResolvedVolume
from forkbed.core.systems.steps import Effect
from forkbed.drivers import processes
from forkbed.drivers.durable import read_files
from forkbed.drivers.sidecars import FileSidecars
from forkbed.drivers.volumes.overlays import OverlayVolumes, disk_serial
from forkbed.ports.volumes import BaseImage
from tests.unit.drivers import samples

SYSTEM = SystemId("sys1")


@pytest.fixture
def image(tmp_path: Path) -> BaseImage:
    path = tmp_path / "image.qcow2"
    processes.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"])
    path.chmod(0o444)
    return BaseImage(samples.IMAGE, str(path), "qcow2", 64 * samples.MEBIBYTE)


@pytest.fixture
def volumes(tmp_path: Path) -> OverlayVolumes:
    return OverlayVolumes(tmp_path / "volumes")


def describe(path: str | Path) -> dict[str, object]:
    content = json.loads(processes.run(["qemu-img", "info", "--output=json", path]).stdout)
    assert isinstance(content, dict)
    return content


def test_sidecars_come_back_by_name(tmp_path: Path) -> None:
    sidecars = FileSidecars(tmp_path / "sidecars")
    assert sidecars.read_all("networks") == {}
    sidecars.write("networks", "a1", {"name": "länd", "n": 1})
    sidecars.write("networks", "a1", {"name": "länd", "n": 2})
    sidecars.write("networks", "b2", {})
    assert sidecars.read_all("networks") == {"a1": {"name": "länd", "n": 2}, "b2": {}}
    sidecars.remove("networks", "b2")
    sidecars.remove("networks", "b2")
    sidecars.remove("unheard-of", "b2")
    assert list(sidecars.read_all("networks")) == ["a1"]
    file = tmp_path / "sidecars" / "networks" / "a1.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["a1.json"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a\n"])
def test_sidecars_refuse_names_that_are_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="plain name"):
        FileSidecars(tmp_path).write("kind", name, {})


def test_a_broken_sidecar_is_told_not_skipped(tmp_path: Path) -> None:
    sidecars = FileSidecars(tmp_path)
    sidecars.write("kind", "good", {})
    (tmp_path / "kind" / "bad.json").write_text("[1")
    with pytest.raises(OperationalError) as failure:
        sidecars.read_all("kind")
    assert failure.value.kind is Kind.FAULT
    assert "bad.json" in failure.value.subject


def test_a_root_volume_is_an_overlay_on_its_image(volumes: OverlayVolumes, image: BaseImage) -> None:
    machine = samples.machine()
    root = machine.volumes[0]
    assert volumes.create(SYSTEM, machine, root, image) is Effect.CHANGED
    assert volumes.create(SYSTEM, machine, root, image) is Effect.ALREADY
    attachment = volumes.attachment(root)
    assert attachment.serial == "root"
    assert attachment.chain == ((image.path, "qcow2"),)
    info = describe(attachment.path)
    assert info["virtual-size"] == root.size_bytes
    assert info["backing-filename"] == image.path
    assert info["backing-filename-format"] == "qcow2"
    assert stat.S_IMODE(Path(attachment.path).stat().st_mode) == 0o600
    (view,) = volumes.volumes()
    assert (view.volume_id, view.system_id, view.machine_name, view.name, view.backing, view.size_bytes) == (
        root.id,
        SYSTEM,
        "boss",
        "root",
        samples.IMAGE,
        root.size_bytes,
    )


def test_the_chain_comes_from_the_sidecar_not_from_the_header(
    volumes: OverlayVolumes, image: BaseImage, tmp_path: Path
) -> None:
    machine = samples.machine()
    root = machine.volumes[0]
    volumes.create(SYSTEM, machine, root, image)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(1024))
    path = volumes.attachment(root).path
    processes.run(["qemu-img", "rebase", "-u", "-b", secret, "-F", "raw", path])
    assert volumes.attachment(root).chain == ((image.path, "qcow2"),)


def test_a_volume_grows_and_never_shrinks(volumes: OverlayVolumes) -> None:
    machine = samples.machine()
    data = machine.volumes[1]
    volumes.create(SYSTEM, machine, data, None)
    larger = ResolvedVolume(data.id, data.name, data.size_bytes * 2)
    assert volumes.grow(larger) is Effect.CHANGED
    assert volumes.grow(larger) is Effect.ALREADY
    assert describe(volumes.attachment(data).path)["virtual-size"] == larger.size_bytes
    assert volumes.volumes()[0].size_bytes == larger.size_bytes
    with pytest.raises(OperationalError) as failure:
        volumes.grow(data)
    assert failure.value.kind is Kind.UNSAFE
    with pytest.raises(OperationalError) as failure:
        volumes.create(SYSTEM, machine, data, None)
    assert failure.value.kind is Kind.CONFLICT
    assert "another size" in failure.value.brief


def test_a_root_volume_smaller_than_its_image_is_refused(volumes: OverlayVolumes, image: BaseImage) -> None:
    machine = samples.machine()
    small = ResolvedVolume(VolumeId("small"), "root", 32 * samples.MEBIBYTE, samples.IMAGE)
    with pytest.raises(OperationalError) as failure:
        volumes.create(SYSTEM, machine, small, image)
    assert failure.value.kind is Kind.UNSAFE
    assert volumes.volumes() == []


def test_remove_leaves_nothing(volumes: OverlayVolumes, tmp_path: Path) -> None:
    machine = samples.machine()
    data = machine.volumes[1]
    volumes.create(SYSTEM, machine, data, None)
    assert volumes.remove(data.id) is Effect.CHANGED
    assert volumes.remove(data.id) is Effect.ALREADY
    assert list((tmp_path / "volumes").iterdir()) == []
    with pytest.raises(OperationalError) as failure:
        volumes.attachment(data)
    assert failure.value.kind is Kind.NOT_FOUND


def test_a_half_made_volume_counts_as_absent_and_is_made_again(tmp_path: Path) -> None:
    machine = samples.machine()
    data = machine.volumes[1]
    directory = tmp_path / "volumes"
    first = OverlayVolumes(directory)
    first.create(SYSTEM, machine, data, None)
    (directory / f"{data.id}.qcow2").rename(
        directory / f".{data.id}.qcow2.0abc.tmp"
    )  # died before the rename
    again = OverlayVolumes(directory)
    assert again.volumes() == []
    assert not list(directory.glob(".*"))
    assert again.create(SYSTEM, machine, data, None) is Effect.CHANGED
    assert len(again.volumes()) == 1


def test_data_without_its_sidecar_is_never_touched(volumes: OverlayVolumes, tmp_path: Path) -> None:
    machine = samples.machine()
    data = machine.volumes[1]
    volumes.create(SYSTEM, machine, data, None)
    (tmp_path / "volumes" / f"{data.id}.json").unlink()
    with pytest.raises(OperationalError) as failure:
        volumes.create(SYSTEM, machine, data, None)
    assert failure.value.kind is Kind.CONFLICT
    assert (tmp_path / "volumes" / f"{data.id}.qcow2").exists()


def test_a_missing_image_leaves_nothing_behind(volumes: OverlayVolumes, tmp_path: Path) -> None:
    machine = samples.machine()
    gone = BaseImage(samples.IMAGE, str(tmp_path / "gone.qcow2"), "qcow2", samples.MEBIBYTE)
    with pytest.raises(OperationalError) as failure:
        volumes.create(SYSTEM, machine, machine.volumes[0], gone)
    assert failure.value.kind is Kind.FAULT
    assert "gone.qcow2" in failure.value.brief
    assert volumes.volumes() == []
    assert list((tmp_path / "volumes").iterdir()) == []


def test_serials_fit_into_what_a_guest_sees() -> None:
    assert disk_serial("root") == "root"
    assert disk_serial("data") == "vol-data"
    assert disk_serial("a-name-that-is-too-long") == "vol-a-name-that-is-t"


def test_a_file_removed_while_we_look_is_as_if_never_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.json", "b.json", ".hidden.json"):
        (tmp_path / name).write_text(name)
    listed = list(tmp_path.glob("*.json"))
    (tmp_path / "a.json").unlink()
    monkeypatch.setattr(Path, "glob", lambda _self, _pattern: iter(listed))
    assert list(read_files(tmp_path, "*.json")) == [(tmp_path / "b.json", b"b.json")]
