"""The smallest Linux guest there is: a Debian kernel, busybox, and a script that says so and ends.

It exists to prove that QEMU can run a guest on this host before there is any image.
"""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import processes

MARK = "forkbed: a Linux guest is up"
_BUSYBOX = Path("/bin/busybox")
_INIT = f"""\
#!/bin/busybox sh
echo "{MARK}, kernel $(/bin/busybox uname -r)"
/bin/busybox reboot -f
"""
_DIRECTORY, _FILE = 0o040755, 0o100755


def find_kernel(cache_dir: Path, boot: Path = Path("/boot")) -> Path | None:
    """A Debian kernel to boot: the host's own newest, else one from the packages that image builds downloaded.

    None if there is neither. What is unpacked from a package stays in the cache directory.
    """
    own = _newest(boot.glob("vmlinuz-*"))
    if own is not None:
        return own
    package = _newest(cache_dir.glob("images/apt/*/archives/linux-image-[0-9]*.deb"))
    return _unpack(package, cache_dir / "proof") if package is not None else None


def make_initramfs(path: Path, busybox: Path = _BUSYBOX) -> None:
    """Write the initramfs: busybox and the script. FAULT if busybox is missing."""
    try:
        program = busybox.read_bytes()
    except OSError as error:
        raise OperationalError(
            Kind.FAULT, str(busybox), f"cannot be read: {error.strerror}", "apt-get install busybox-static"
        ) from error
    members = [("bin", _DIRECTORY, b""), ("bin/busybox", _FILE, program), ("init", _FILE, _INIT.encode())]
    path.write_bytes(gzip.compress(archive(members), compresslevel=1))


def archive(members: Sequence[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive ("newc", as the kernel reads it) of (name, mode, content), owned by root, without times."""
    parts = []
    for number, (name, mode, content) in enumerate([*members, ("TRAILER!!!", 0, b"")], start=1):
        name_bytes = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device numbers (4), name size, checksum
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name_bytes), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        parts += [_padded(header + name_bytes), _padded(content)]
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _unpack(package: Path, directory: Path) -> Path:
    name = f"vmlinuz-{package.name.removeprefix('linux-image-').partition('_')[0]}"
    kernel = directory / name
    if kernel.exists():
        return kernel
    unpacked = directory / f"{name}.unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        processes.run(["dpkg-deb", "--extract", package, unpacked], timeout_s=120, subject=package.name)
        (unpacked / "boot" / name).rename(kernel)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return kernel


def _newest(paths: Iterable[Path]) -> Path | None:
    return max(paths, key=lambda path: _version(path.name), default=None)


def _version(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]
