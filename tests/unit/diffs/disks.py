"""Small real disks for tests: file systems made and changed by their own tools, never mounted, as layers of qcow2."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from forkbed.core.diffs.records import DiskDifference
from forkbed.core.diffs.rules import Selection
from forkbed.drivers import processes
from forkbed.drivers.filesystems.appliance import Appliance
from forkbed.drivers.filesystems.driver import HostDisks
from forkbed.ports.disks import DiskLayer, DiskQuestion, DiskVersion

MIB = 1024 * 1024
EVERYTHING = Selection(noise=())
DISKS = HostDisks(Appliance(Path("unused"), lambda: False))


def make_ext4(path: Path, tree: Path, *options: str, size_bytes: int = 16 * MIB, kind: str = "ext4") -> Path:
    """A raw file with a file system that holds `tree`."""
    with path.open("wb") as stream:
        stream.truncate(size_bytes)
    processes.run(["mke2fs", "-q", "-F", "-t", kind, "-d", tree, *options, path])
    return path


def edit_ext4(path: Path, commands: Sequence[str]) -> None:
    """Change the file system in a raw file with debugfs."""
    done = processes.run(
        ["debugfs", "-w", "-f", "-", path], input="".join(f"{c}\n" for c in commands).encode()
    )
    complaints = [line for line in done.stderr.decode().splitlines() if not line.startswith("debugfs ")]
    assert not complaints, complaints


def overlay(path: Path, base: Path, content: Path, base_format: str = "raw") -> Path:
    """A qcow2 layer over `base` that holds just the clusters in which the raw file `content` differs from it."""
    processes.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", content, path])
    processes.run(["qemu-img", "rebase", "-F", base_format, "-b", base, path])
    return path


def partitioned(path: Path, parts: Sequence[Path], *, label: str = "dos") -> Path:
    """A disk with a partition for each file, one MiB apart."""
    script, at = [f"label: {label}"], 1
    for part in parts:
        length = -(-part.stat().st_size // MIB)
        script.append(f"start={at}MiB, size={length}MiB")
        at += length + 1
    with path.open("wb") as stream:
        stream.truncate((at + 2) * MIB)
    processes.run(["sfdisk", "-q", path], input="\n".join(script).encode())
    at = 1
    with path.open("r+b") as disk:
        for part in parts:
            disk.seek(at * MIB)
            with part.open("rb") as source:
                shutil.copyfileobj(source, disk)
            at += -(-part.stat().st_size // MIB) + 1
    return path


def version(*layers: Path) -> DiskVersion:
    """The layers, top first, their formats by their names."""
    return DiskVersion(
        tuple(DiskLayer(str(layer), "raw" if layer.suffix == ".raw" else "qcow2") for layer in layers)
    )


def compared(base: Path, left: Path | None, right: Path, selection: Selection = EVERYTHING) -> DiskDifference:
    """What differs between the layers `left` and `right` on `base`; without `left`, between `base` and `right`."""
    question = DiskQuestion(
        left=version(left, base) if left else version(base),
        right=version(right, base),
        base=version(base),
        selection=selection,
    )
    return DISKS.compare(question, "volume test")
