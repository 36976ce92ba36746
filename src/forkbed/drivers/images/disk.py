"""From a root file system in a directory to a bootable disk, and what a boot loader needs in it."""

from __future__ import annotations

import uuid
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.units import format_size
from forkbed.drivers.images import guestfiles
from forkbed.drivers.images.watched import run_contained
from forkbed.ports.progress import Progress

_MIB = 1024 * 1024
_SMALLEST_BYTES = 32 * _MIB
_FULL = "Could not allocate"  # mke2fs of a directory that is too large


def file_system_uuid(key: str) -> str:
    """The UUID of the root file system of the image built under this key: the same for the same key."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"forkbed-image:{key}"))


def write_boot_configuration(root: Path, fs_uuid: str, kernel_arguments: str) -> None:
    """Tell extlinux what to boot: always the links in `/`, which Debian moves when it installs a kernel."""
    for name in ("vmlinuz", "initrd.img"):
        if not (root / name).is_symlink() and not (root / name).exists():
            raise OperationalError(
                Kind.INVALID,
                "image",
                f"the root file system has no /{name}",
                "install a kernel with its initramfs, which makes the links /vmlinuz and /initrd.img",
            )
    for name in ("boot", "boot/extlinux"):  # a link could lead out of the image
        if (root / name).is_symlink():
            raise OperationalError(Kind.INVALID, "image", f"/{name} is a link; extlinux needs a directory")
    configuration = root / "boot/extlinux/extlinux.conf"
    configuration.unlink(missing_ok=True)
    lines = (
        "SERIAL 0 115200",  # what it complains of is in the machine's log then
        "DEFAULT linux",
        "PROMPT 0",
        "NOESCAPE 1",
        "LABEL linux",
        "  LINUX /vmlinuz",
        "  INITRD /initrd.img",
        f"  APPEND root=UUID={fs_uuid} rw {kernel_arguments}",
    )
    guestfiles.write(configuration, "".join(f"{line}\n" for line in lines))


def make_disk(
    root: Path, disk: Path, *, size_bytes: int, fs_uuid: str, log: Path, progress: Progress
) -> None:
    """Write the raw disk file `disk` with the content of `root`; sparse where the disk holds nothing."""
    if size_bytes < _SMALLEST_BYTES or size_bytes % _MIB:
        raise OperationalError(
            Kind.INVALID,
            "image",
            f"a disk of {format_size(size_bytes)} is not possible",
            f"take whole MiB, at least {format_size(_SMALLEST_BYTES)}",
        )
    journal_mib = 4 if size_bytes < 1024 * _MIB else 16
    try:
        run_contained(
            ("sh", guestfiles.step("disk.sh"), root, disk, str(size_bytes), fs_uuid, str(journal_mib)),
            log=log,
            subject="disk of the image",
            progress=progress,
        )
    except OperationalError as error:
        if not any(_FULL in line for line in error.details):
            raise
        raise OperationalError(
            Kind.INVALID,
            "image",
            f"its content does not fit on a disk of {format_size(size_bytes)}",
            "write a larger `size` in the recipe",
        ) from error
