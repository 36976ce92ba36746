"""Build images: a built-in base or another image's root file system, what the recipe adds, a bootable disk.

Each stage's result is kept in the cache directory under a key made of all that went into it, shared by every lab
on the machine: the second build of a recipe is instant, and recipes with one base build the base once. Builds
take turns; what a killed one left in the staging directory is removed by the next.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import ImageId
from forkbed.core.images.recipe import BUILT_IN_BASES, KernelFlavour, RecipeSpec, base_key, disk_key, root_key
from forkbed.drivers import processes
from forkbed.drivers.images import bootstrap, debian, disk, guestfiles, micro, provision, qemu_img
from forkbed.drivers.images.bootstrap import AptEnvironment, Bootstrap
from forkbed.drivers.images.cache import BuildCache, BuiltDisk
from forkbed.drivers.images.content import hash_disk, hash_file
from forkbed.drivers.images.provision import RootFileSystem
from forkbed.drivers.images.watched import run_contained
from forkbed.ports.progress import Progress

_MIB = 1024 * 1024
_SIZES = {"micro": 256 * _MIB, "debian-12": 2048 * _MIB}
_KERNEL_ARGUMENTS = {
    "micro": "console=ttyS0,115200 loglevel=4",
    "debian-12": debian.KERNEL_ARGUMENTS,
    "": "console=ttyS0,115200",
}
_KERNEL_PACKAGES = {
    KernelFlavour.CLOUD: "linux-image-cloud-amd64",
    KernelFlavour.GENERIC: "linux-image-amd64",
}
# What Forkbed itself puts into a built-in base, and what makes a disk of a root file system.
_BASE_SOURCES = {
    "micro": ("bootstrap.py", "micro.py", "steps/clean.sh", "guest", "guest/micro"),
    "debian-12": ("bootstrap.py", "debian.py", "steps/clean.sh", "guest", "guest/debian"),
}
_DISK_SOURCES = ("disk.py", "steps/disk.sh")
_WAIT_S = 0.2
_TAR_ATTRIBUTES = ("--numeric-owner", "--xattrs", "--xattrs-include=*")


@dataclass(frozen=True, slots=True)
class BaseImage:
    """An image to build on. `root_key` is that of its build, "" for a foreign one; `os` a built-in base or ""."""

    id: ImageId
    path: Path
    format: str
    size_bytes: int
    root_key: str
    os: str


class ImageBuilder:
    """Builds in, and keeps results in, one cache directory."""

    def __init__(self, cache_dir: Path, network_namespace: Path | None) -> None:
        self._directory = cache_dir
        self._cache = BuildCache(cache_dir)
        self._apt = AptEnvironment(cache_dir / "apt" / bootstrap.SUITE, network_namespace)
        (cache_dir / "staging").mkdir(exist_ok=True)

    def build(self, recipe: RecipeSpec, base: BaseImage | None, progress: Progress) -> BuiltDisk:
        """The disk of a recipe; `base` is the image that it names, None for a built-in base.

        Raises FAULT with the tool's own words for what does not work, INVALID for a base that cannot be read.
        """
        kernel = recipe.kernel or KernelFlavour.CLOUD
        below = self._key_below(recipe, base, kernel)
        wanted = root_key(below, recipe)
        size_bytes = recipe.size_bytes or (base.size_bytes if base else _SIZES[recipe.base])
        key = disk_key(wanted, size_bytes, _digest(_DISK_SOURCES))
        known = self._cache.disk(key)
        if known is not None:
            progress.tell("built before with the same content")
            return known
        with self._turn(progress) as staging:
            known = self._cache.disk(key)
            if known is not None:
                return known
            root = RootFileSystem(staging / "root", self._apt, self._directory / "build.log", progress)
            root.log.unlink(missing_ok=True)
            self._make_root(root, recipe, base, below, wanted)
            os_name = base.os if base else recipe.base
            built = self._make_disk(root, key, size_bytes, wanted, os_name)
            self._cache.trim(keep=(key, wanted, below))
            return built

    def _key_below(self, recipe: RecipeSpec, base: BaseImage | None, kernel: KernelFlavour) -> str:
        if base is not None:
            return base.root_key or f"image-{base.id[:32]}"
        assert recipe.base in BUILT_IN_BASES
        return base_key(recipe.base, kernel, _digest(_BASE_SOURCES[recipe.base]))

    def _make_root(
        self, root: RootFileSystem, recipe: RecipeSpec, base: BaseImage | None, below: str, wanted: str
    ) -> None:
        """Have the root file system of key `wanted` in `root.path`, from the nearest stage that is kept."""
        if self._unpack(wanted, root):
            return
        if not self._unpack(below, root):
            if base is None:
                self._make_base(root, recipe)
            else:
                self._extract(base, root)
            self._keep(below, root)
        if recipe.changes_base:
            provision.provision(recipe, root)
            provision.clean(root)
            self._keep(wanted, root)

    def _make_base(self, root: RootFileSystem, recipe: RecipeSpec) -> None:
        kernel = _KERNEL_PACKAGES[recipe.kernel or KernelFlavour.CLOUD]
        staging = root.path.parent
        root.progress.tell(f"making {recipe.base} from Debian packages")
        if recipe.base == "micro":
            unpacked = staging / "unpacked"
            self._bootstrap(Bootstrap("extract", (*micro.PACKAGES, kernel)), unpacked, root)
            version = micro.assemble(unpacked, root.path)
            micro.make_initramfs(unpacked, root.path, version, staging / "initramfs")
            return
        overlay = staging / "overlay.tar"
        overlay.write_bytes(debian.overlay())
        self._bootstrap(Bootstrap("minbase", (*debian.PACKAGES, kernel), overlay), root.path, root)
        debian.finish(root.path)
        provision.clean(root)

    def _bootstrap(self, wanted: Bootstrap, target: Path, root: RootFileSystem) -> None:
        bootstrap.bootstrap(wanted, target, apt=self._apt, log=root.log, progress=root.progress)

    def _extract(self, base: BaseImage, root: RootFileSystem) -> None:
        """Unpack the root file system of an image that was not built here."""
        root.progress.tell("reading the root file system of the base image")
        archive = root.path.parent / "extracted.tar.zst"
        argv = (
            "sh",
            guestfiles.step("extract.sh"),
            base.path,
            base.format,
            root.path.parent / "disk",
            archive,
        )
        try:
            run_contained(argv, log=root.log, subject="base image", progress=root.progress)
        except OperationalError as error:
            raise OperationalError(
                Kind.INVALID,
                "base image",
                f"its root file system cannot be read: {error.brief}",
                "an image to build on needs an ext4 root file system with Debian's layout",
                details=error.details,
            ) from error
        self._untar(archive, root)
        provision.forget_other_disks(root)

    def _make_disk(
        self, root: RootFileSystem, key: str, size_bytes: int, wanted: str, os_name: str
    ) -> BuiltDisk:
        staging = root.path.parent
        root.progress.tell("writing the disk")
        fs_uuid = disk.file_system_uuid(key)
        disk.write_boot_configuration(root.path, fs_uuid, _KERNEL_ARGUMENTS[os_name])
        raw, stored = staging / "disk.raw", staging / "disk.qcow2"
        disk.make_disk(
            root.path, raw, size_bytes=size_bytes, fs_uuid=fs_uuid, log=root.log, progress=root.progress
        )
        image_id = ImageId(hash_disk(raw))
        qemu_img.convert(
            raw, "raw", stored, "qcow2", log=root.log, subject="disk of the image", progress=root.progress
        )
        built = BuiltDisk(
            stored, image_id, size_bytes, hash_file(stored), wanted, os_name, _seed_of(root.path)
        )
        return self._cache.add_disk(key, built)

    def _keep(self, key: str, root: RootFileSystem) -> None:
        aside = root.path.parent / "root.tar.zst"
        argv = ("tar", "--create", "--use-compress-program=zstd -T0 -1", *_TAR_ATTRIBUTES, "--file", aside)
        run_contained(
            (*argv, "--directory", root.path, "."),
            log=root.log,
            subject="root file system",
            progress=root.progress,
        )
        self._cache.add_root(key, aside)

    def _unpack(self, key: str, root: RootFileSystem) -> bool:
        """Unpack a kept root file system; whether there is one."""
        archive = self._cache.root(key)
        if archive is None:
            return False
        self._untar(archive, root)
        return True

    def _untar(self, archive: Path, root: RootFileSystem) -> None:
        root.path.mkdir()
        argv = ("tar", "--extract", "--zstd", "--preserve-permissions", *_TAR_ATTRIBUTES, "--file", archive)
        run_contained(
            (*argv, "--directory", root.path),
            log=root.log,
            subject="root file system",
            progress=root.progress,
        )

    @contextmanager
    def _turn(self, progress: Progress) -> Iterator[Path]:
        """Wait for the cache's one build at a time; gives an empty staging directory."""
        with (self._directory / "build.lock").open("a") as lock:
            waiting = False
            while not _try_lock(lock.fileno()):
                if not waiting:
                    progress.tell("waiting for another build to end")
                waiting = True
                progress.check_cancelled()
                time.sleep(_WAIT_S)
            staging = self._directory / "staging" / "build"
            _remove_tree(staging)
            staging.mkdir()
            try:
                yield staging
            finally:
                _remove_tree(staging)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_tree(path: Path) -> None:
    if path.exists():
        # Mounts of a build live in its own namespace: nothing of the host is reachable below.
        processes.run(("rm", "-rf", "--one-file-system", path), timeout_s=300, subject="image build")


def _digest(parts: Sequence[str]) -> str:
    """Changes with every byte of these files of the package, and of the files in these directories."""
    digest = hashlib.sha256()
    package = resources.files("forkbed.drivers.images")
    for part in parts:
        entry = package.joinpath(part)
        files = [entry] if entry.is_file() else [file for file in entry.iterdir() if file.is_file()]
        for file in sorted(files, key=lambda file: file.name):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _seed_of(root: Path) -> str:
    if os.path.lexists(root / guestfiles.SEED_APPLY.path):
        return "forkbed"
    return "cloud-init" if os.path.lexists(root / "usr/bin/cloud-init") else "none"
