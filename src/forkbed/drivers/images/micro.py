"""The micro image: Debian's cloud kernel, busybox, guest agent and dropbear, and little else.

Packages are unpacked, not installed; what the guest needs of them is picked together with the libraries it
links to. An initramfs of busybox and a few drivers mounts the root disk. Up in seconds under emulation.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import processes
from forkbed.drivers.images import guestfiles
from forkbed.drivers.images.guestfiles import AWAKEN, SEED_APPLY, GuestFile, link, write

PACKAGES = (
    "busybox-static",
    "dropbear-bin",
    "e2fsprogs",
    "fdisk",
    "libc6",
    "mount",
    "qemu-guest-agent",
    "util-linux",
)
_PROGRAMS = (
    "bin/busybox",
    "sbin/blkid",
    "sbin/e2fsck",
    "sbin/mke2fs",
    "sbin/resize2fs",
    "sbin/sfdisk",
    "usr/bin/dropbearkey",
    "usr/bin/partx",
    "usr/lib/dropbear/dropbearconvert",
    "usr/sbin/dropbear",
    "usr/sbin/qemu-ga",
)
# Loaded by the initramfs; those that a kernel has built in are passed over. The rest is loaded by name later.
_BOOT_MODULES = (
    *("virtio_pci", "virtio_blk", "crc32c_generic", "ext4"),
    *("virtio_net", "virtio_console", "virtio_rng", "isofs"),
)
_LATER_MODULES = ("button", "evdev", "virtio_balloon", "dummy", "veth", "8021q", "vfat", "overlay")
_FILES = (
    SEED_APPLY,
    GuestFile("micro/inittab", "etc/inittab"),
    GuestFile("micro/profile", "etc/profile"),
    *(
        GuestFile(f"micro/{name}", f"etc/init.d/{name}", 0o755)
        for name in ("boot", "agent", "console-shell", "dhcp-event", "stop")
    ),
    GuestFile("micro/shutdown", "usr/sbin/shutdown", 0o755),
    GuestFile("micro/acpi-powerbutton", "etc/acpi/PWRF/00000080", 0o755),
)
# No C library: it would make 1 KiB into 800.
_DIRECTORIES = [
    "boot/extlinux",
    "dev",
    "etc",
    "home",
    "mnt",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr/bin",
    "usr/lib",
    "usr/lib64",
    "usr/sbin",
    "var/lib/forkbed",
    "var/log",
    "var/spool/cron/crontabs",
    "opt",
    "srv",
]
_ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "shadow": "root:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n",
    "group": "root:x:0:\ntty:x:5:\ndisk:x:6:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n",
    "shells": "/bin/sh\n/usr/bin/sh\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost\n",
    "hostname": "micro\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "os-release": 'ID=forkbed-micro\nNAME="Forkbed micro"\nPRETTY_NAME="Forkbed micro"\n',
    "acpid.conf": "",
}


def assemble(extracted: Path, root: Path) -> str:
    """Make the micro root file system in `root` (it must not exist) from unpacked packages.

    Returns the kernel's version.
    """
    for directory in _DIRECTORIES:
        (root / directory).mkdir(parents=True)
    (root / "root").chmod(0o700)
    for name in ("bin", "sbin", "lib", "lib64"):  # one place for programs, as in Debian
        link(root / name, f"usr/{name}")
    _copy_programs(extracted, root)
    guestfiles.install(_FILES, root)
    guestfiles.compile_program(AWAKEN, root)
    for name, text in _ETC.items():
        write(root / "etc" / name, text, 0o640 if name == "shadow" else 0o644)
    shutil.copy(extracted / "etc/mke2fs.conf", root / "etc/mke2fs.conf")
    link(root / "etc/resolv.conf", "/run/resolv.conf")
    link(root / "etc/mtab", "/proc/self/mounts")
    link(root / "var/run", "/run")
    version = kernel_version(extracted)
    _copy_kernel(extracted, root, version)
    return version


def kernel_version(root: Path) -> str:
    """The version of the one kernel in a root file system."""
    found = sorted(path.name.removeprefix("vmlinuz-") for path in (root / "boot").glob("vmlinuz-*"))
    if len(found) != 1:
        raise OperationalError(Kind.FAULT, "micro image", f"one kernel is needed, found {len(found)}")
    return found[0]


def make_initramfs(extracted: Path, root: Path, version: str, staging: Path) -> None:
    """Write `/boot/initrd.img-VERSION` into `root`: busybox, drivers in loading order, one script."""
    for directory in ("bin", "dev", "modules", "proc", "root", "sys"):
        (staging / directory).mkdir(parents=True)
    shutil.copy(extracted / "bin/busybox", staging / "bin/busybox")
    write(staging / "init", guestfiles.content("micro/init"), 0o755)
    source = extracted / "lib/modules" / version
    order = loading_order(_dependencies(source), _BOOT_MODULES)
    for module in order:
        shutil.copy(source / module, staging / "modules" / Path(module).name)
    write(staging / "modules/order", "".join(f"{Path(module).name}\n" for module in order))
    names = "\n".join(sorted(str(path.relative_to(staging)) for path in staging.rglob("*")))
    archive = processes.run(
        ("cpio", "--create", "--format=newc", "--quiet", "--owner=0:0", "--directory", staging),
        input=names.encode(),
        subject="initramfs",
    ).stdout
    write(root / f"boot/initrd.img-{version}", archive)
    link(root / "initrd.img", f"boot/initrd.img-{version}")


def loading_order(dependencies: dict[str, tuple[str, ...]], wanted: Sequence[str]) -> tuple[str, ...]:
    """The modules to load for `wanted` names, each after those it needs. Paths as in `dependencies`.

    virtio needs virtio_ring here although the names suggest the opposite: the order is always worked out.
    """
    by_name = {Path(path).name.split(".")[0].replace("-", "_"): path for path in dependencies}
    order: dict[str, None] = {}

    def add(path: str) -> None:
        if path not in order:
            for needed in dependencies[path]:
                add(needed)
            order[path] = None

    for name in wanted:
        if name in by_name:  # otherwise built into the kernel
            add(by_name[name])
    return tuple(order)


def _dependencies(modules: Path) -> dict[str, tuple[str, ...]]:
    result = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, needed = line.split(":", 1)
        # modules.dep lists all that is needed, the most basic last.
        result[path] = tuple(reversed(needed.split()))
    return result


def _copy_programs(extracted: Path, root: Path) -> None:
    libraries: set[str] = set()
    for program in _PROGRAMS:
        _copy(extracted, root, program)
        libraries |= _libraries(extracted, program)
    for library in sorted(libraries):
        _copy(extracted, root, library)
    applets = processes.run((extracted / "bin/busybox", "--list-full"), subject="busybox").text.split()
    for applet in applets:
        path = root / applet
        if not path.exists() and not path.is_symlink() and path.name != "linuxrc":
            link(path, "/usr/bin/busybox")
    link(root / "usr/sbin/mkfs.ext4", "mke2fs")
    link(root / "usr/bin/dropbearconvert", "../lib/dropbear/dropbearconvert")


def _libraries(extracted: Path, program: str) -> set[str]:
    """The shared libraries of a program, by the unpacked system's own loader; empty for a static one."""
    loader = ("chroot", extracted, "/lib64/ld-linux-x86-64.so.2")
    if processes.run((*loader, "--verify", f"/{program}"), accept=None).status not in (0, 2):
        return set()
    listing = processes.run((*loader, "--list", f"/{program}"), subject="micro image").text
    missing = re.findall(r"(\S+) => not found", listing)
    if missing:
        raise OperationalError(Kind.FAULT, "micro image", f"{program} lacks libraries: {' '.join(missing)}")
    return {path.lstrip("/") for path in re.findall(r"(/\S+) \(0x", listing)}


def _copy_kernel(extracted: Path, root: Path, version: str) -> None:
    shutil.copy(extracted / f"boot/vmlinuz-{version}", root / "boot")
    link(root / "vmlinuz", f"boot/vmlinuz-{version}")
    processes.run(("depmod", "--basedir", extracted, version), subject="micro image")
    source, target = extracted / "lib/modules" / version, root / "lib/modules" / version
    dependencies = _dependencies(source)
    for module in loading_order(dependencies, (*_BOOT_MODULES, *_LATER_MODULES)):
        _copy(source, target, module)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(source / name, target / name)
    processes.run(("depmod", "--basedir", root, version), subject="micro image")


def _copy(source: Path, target: Path, path: str) -> None:
    destination = target / path
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(_resolve(source, path), destination)


def _resolve(root: Path, path: str) -> Path:
    """The file that `path` is inside `root`; an absolute link stays inside."""
    found = root / path
    while found.is_symlink():
        target = os.readlink(found)
        found = root / target.lstrip("/") if target.startswith("/") else found.parent / target
    return found
