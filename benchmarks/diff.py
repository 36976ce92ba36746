"""`diff`: a Debian disk against a fork in which files changed, and virt-diff on the same disks in the same run."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic, sleep

from benchmarks.report import Figure, Report
from forkbed.config.log import configure_log
from forkbed.config.settings import load_settings
from forkbed.core.diffs.entries import EntryKind
from forkbed.core.diffs.records import Reading
from forkbed.core.diffs.rules import Selection
from forkbed.core.images.recipe import KernelFlavour, RecipeSpec
from forkbed.drivers.doctor.acceleration import Accelerator, prove_acceleration
from forkbed.drivers.filesystems.appliance import Appliance
from forkbed.drivers.filesystems.chains import Chain, OpenLayer
from forkbed.drivers.filesystems.driver import HostDisks
from forkbed.drivers.filesystems.ext4 import Ext4
from forkbed.drivers.filesystems.partitions import partitions
from forkbed.drivers.filesystems.problems import Budget
from forkbed.drivers.images.builder import ImageBuilder
from forkbed.ports.disks import DiskLayer, DiskQuestion, DiskVersion
from forkbed.ports.progress import Silence

ROUNDS = 5
GIB = 1024**3
SIZES_GIB = (2, 8, 32)
CHANGED = (1, 100, 10_000)
USUAL_GIB, USUAL_CHANGED = 2, 100
TARGET = 10.0
MOST_FILE_BYTES = 200_000
PARTITION_START = 1024 * 1024
INSTALL = "apt-get install --no-install-recommends libguestfs-tools"
LIMIT_S = 1800.0
SEED = 4


@dataclass(frozen=True, slots=True)
class Guest:
    """A Debian disk, the names on it, and its regular files that are neither empty nor large, in no order."""

    disk: Path
    names: int
    files: tuple[str, ...]


def measure() -> Report:
    """Seconds of one whole comparison, its process included; median of the rounds. virt-diff runs once."""
    configure_log(os.environ)
    figures: list[Figure] = []
    with TemporaryDirectory(prefix="forkbed-bench-diff-", dir="/var/tmp") as directory:
        scratch = Path(directory)
        for size_gib in SIZES_GIB:
            guest = _guest(size_gib)
            for changed in CHANGED if size_gib == USUAL_GIB else (USUAL_CHANGED,):
                fork = _fork(guest, changed, scratch / f"fork-{size_gib}-{changed}.qcow2")
                took = _compare(guest, fork, changed)
                what = f"{changed} of {guest.names} paths changed, {size_gib} GiB"
                if (size_gib, changed) == (USUAL_GIB, USUAL_CHANGED):
                    figures.insert(0, _beside_virt_diff(what, took, guest, fork, scratch))
                else:
                    figures.append(Figure(what, took, "s"))
                fork.unlink()
    return Report(
        "diff", f"a Debian disk and its fork compared, median of {ROUNDS}; plain: virt-diff", tuple(figures)
    )


def _guest(size_gib: int) -> Guest:
    """The built-in Debian with the kernel of every driver: about 18,000 names."""
    builder = ImageBuilder(load_settings(os.environ).cache_dir / "images", None)
    recipe = RecipeSpec("bench-diff", "debian-12", kernel=KernelFlavour.GENERIC, size_bytes=size_gib * GIB)
    disk = builder.build(recipe, None, Silence()).path
    with _root(disk) as tree:
        files = []
        for path, node in tree.paths().items():
            facts = tree.facts(node)
            plain = facts.kind is EntryKind.FILE and 0 < facts.size_bytes <= MOST_FILE_BYTES
            if plain and b" " not in path and b'"' not in path:
                files.append(os.fsdecode(path))
        names = len(tree.paths())
    random.Random(SEED).shuffle(files)
    return Guest(disk, names, tuple(files))


def _fork(guest: Guest, changed: int, fork: Path) -> Path:
    """A layer on the guest's disk in which `changed` files have another content, written anew as editors do."""
    source = random.Random(SEED)
    _run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", guest.disk, fork)
    with TemporaryDirectory(prefix="forkbed-bench-new-") as directory:
        commands = []
        for number, name in enumerate(guest.files[:changed]):
            content = Path(directory) / str(number)
            content.write_bytes(source.randbytes(source.randrange(100, 20_000)))
            commands += [f"rm /{name}", f"write {content} /{name}"]
        script = Path(directory) / "script"
        script.write_text("".join(f"{command}\n" for command in commands))
        with _exported(fork) as raw:
            _run("debugfs", "-w", "-f", script, f"{raw}?offset={PARTITION_START}")
    return fork


def _compare(guest: Guest, fork: Path, changed: int) -> float:
    """The median time of a comparison, which must find just what was changed."""
    base = DiskVersion((DiskLayer(str(guest.disk)),))
    question = DiskQuestion(
        base, DiskVersion((DiskLayer(str(fork)), *base.layers)), selection=Selection(noise=())
    )
    disks = HostDisks(Appliance(Path("/nonexistent"), lambda: False))
    times = []
    for _ in range(ROUNDS):
        started = monotonic()
        found = disks.compare(question, "benchmark")
        times.append(monotonic() - started)
        (one,) = found.file_systems
        if one.reading is not Reading.COMPARED or one.counts.right.changed != changed:
            raise SystemExit(f"{changed} files were changed, and this was found: {one.reading} {one.counts}")
    return median(times)


def _beside_virt_diff(what: str, took: float, guest: Guest, fork: Path, scratch: Path) -> Figure:
    target = f"{TARGET:g} times faster than virt-diff"
    if shutil.which("virt-diff") is None:
        print(f"virt-diff is not installed, so there is nothing to compare with: {INSTALL}")
        return Figure(what, took, "s", target=f"{target} (it is not installed)")
    with _libguestfs(guest.disk, scratch) as environment:
        # Once for nothing: the first run makes libguestfs's machine, which later runs use again.
        _run("virt-ls", "-a", guest.disk, "-m", "/dev/sda1:/:ro", "/", environment=environment)
        started = monotonic()
        argv = ("virt-diff", "--format=qcow2", "-a", guest.disk, "--format=qcow2", "-A", fork)
        _run(*argv, environment=environment)
        plain = monotonic() - started
    return Figure(what, took, "s", plain, took / plain, f"at least {target}", took * TARGET <= plain)


@contextmanager
def _libguestfs(disk: Path, scratch: Path) -> Iterator[Mapping[str, str]]:
    """What libguestfs needs: where KVM is not proven, emulation; on a machine without a kernel, the guest's own."""
    settings = load_settings(os.environ)
    emulated = prove_acceleration(settings.cache_dir).accelerator is not Accelerator.KVM
    environment = {
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg" if emulated else "",
        "LIBGUESTFS_CACHEDIR": str(scratch),
        "TMPDIR": str(scratch),
    }
    modules = Path("/lib/modules")
    if any(Path("/boot").glob("vmlinuz-*")) and modules.exists():
        yield environment
        return
    version = _extract_kernel(disk, scratch / "kernel")
    environment["SUPERMIN_KERNEL"] = str(scratch / "kernel/boot" / f"vmlinuz-{version}")
    environment["SUPERMIN_MODULES"] = str(scratch / "kernel/usr/lib/modules" / version)
    environment["SUPERMIN_KERNEL_VERSION"] = version
    made = not modules.exists()
    if made:
        modules.mkdir()  # libguestfs asks for the directory even if the modules are elsewhere
    try:
        yield environment
    finally:
        if made:
            modules.rmdir()


def _extract_kernel(disk: Path, target: Path) -> str:
    """Copy kernel and modules out of the guest's disk; the kernel's version."""
    version = ""
    with _root(disk) as tree:
        for path, node in tree.paths().items():
            name = os.fsdecode(path)
            if name.startswith("boot/vmlinuz-"):
                version = name.removeprefix("boot/vmlinuz-")
            if name.startswith(("boot/vmlinuz-", "usr/lib/modules/")):
                facts = tree.facts(node)
                if facts.kind is EntryKind.FILE:
                    (target / name).parent.mkdir(parents=True, exist_ok=True)
                    (target / name).write_bytes(tree.content(node, 0, facts.size_bytes))
    _run("depmod", "-b", target / "usr", version)
    return version


@contextmanager
def _root(disk: Path) -> Iterator[Ext4]:
    """The file system of the guest's first partition."""
    descriptor = os.open(disk, os.O_RDONLY)
    try:
        chain = Chain([OpenLayer(str(disk), "qcow2", descriptor)])
        places = partitions(chain.read, chain.size_bytes)
        assert places
        yield Ext4(places[0].reader(chain.read), Budget(LIMIT_S, 10_000_000, 256))
    finally:
        os.close(descriptor)


@contextmanager
def _exported(fork: Path) -> Iterator[Path]:
    """The disk as a raw file that can be written to, through FUSE; the host's kernel mounts nothing of it."""
    raw = fork.with_suffix(".raw")
    raw.touch()
    process = subprocess.Popen(
        [
            *("qemu-storage-daemon", "--blockdev"),
            f"driver=qcow2,node-name=fork,file.driver=file,file.filename={fork}",
            *("--export", f"type=fuse,id=raw,node-name=fork,mountpoint={raw},writable=on"),
        ]
    )
    try:
        while raw.stat().st_size == 0:
            if process.poll() is not None:
                raise SystemExit("qemu-storage-daemon did not export the disk")
            sleep(0.02)
        yield raw
    finally:
        process.terminate()
        process.wait()
        raw.unlink()


def _run(*argv: str | Path, environment: Mapping[str, str] | None = None) -> None:
    words = [str(word) for word in argv]
    done = subprocess.run(
        words, check=False, capture_output=True, timeout=LIMIT_S, env={**os.environ, **(environment or {})}
    )
    if done.returncode:
        raise SystemExit(
            f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr.decode(errors='replace')}"
        )
