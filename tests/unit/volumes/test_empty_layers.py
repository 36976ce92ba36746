"""Empty layers that are copies of one that `qemu-img` made are what it would have made."""

from __future__ import annotations

from pathlib import Path

import pytest

from forkbed.base.errors import OperationalError
from forkbed.drivers import processes
from forkbed.drivers.volumes.layer_files import EmptyLayers
from forkbed.drivers.volumes.records import LayerFile

_MIB = 1024**2


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command lines of the tools that ran."""
    real, found = processes.run, []

    def run(argv: list[processes.Argument], **more: object) -> processes.Completed:
        found.append(" ".join(map(str, argv)))
        return real(argv, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(processes, "run", run)
    return found


def made(layers: EmptyLayers, path: Path, below: LayerFile | None, size_bytes: int) -> bytes:
    with layers.beside(LayerFile(str(path)), below, size_bytes, "volume boss/root") as temporary:
        assert temporary.stat().st_mode & 0o777 == 0o600
        return temporary.read_bytes()


def test_layers_that_are_alike_are_made_once(tmp_path: Path, asked: list[str]) -> None:
    layers, below = EmptyLayers(), LayerFile(str(tmp_path / "below.qcow2"))
    Path(below.path).touch()
    first = made(layers, tmp_path / "one.qcow2", below, 64 * _MIB)
    assert made(layers, tmp_path / "two.qcow2", below, 64 * _MIB) == first
    assert len(asked) == 1
    assert made(EmptyLayers(), tmp_path / "three.qcow2", below, 64 * _MIB) == first, "its tool says the same"
    assert not list(tmp_path.glob(".*")), "nobody moved them away, so none is left"


def test_others_are_made_anew(tmp_path: Path, asked: list[str]) -> None:
    layers, below = EmptyLayers(), LayerFile(str(tmp_path / "below.qcow2"))
    other = LayerFile(str(tmp_path / "other.qcow2"))
    for file in (below, other):
        Path(file.path).touch()
    kinds = [(below, 64), (below, 128), (other, 64), (None, 64)]
    found = [made(layers, tmp_path / "layer.qcow2", under, size * _MIB) for under, size in kinds]
    assert len(asked) == len(set(found)) == 4


def test_a_copy_needs_what_it_stands_on_too(tmp_path: Path) -> None:
    layers, below = EmptyLayers(), LayerFile(str(tmp_path / "below.qcow2"))
    Path(below.path).touch()
    made(layers, tmp_path / "one.qcow2", below, _MIB)
    Path(below.path).unlink()
    with pytest.raises(OperationalError, match="what it stands on is missing"):
        made(layers, tmp_path / "two.qcow2", below, _MIB)
