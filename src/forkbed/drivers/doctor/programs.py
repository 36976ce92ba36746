"""Whether the programs that Forkbed uses are there, which versions they have, and who brings them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

from forkbed.base.errors import OperationalError
from forkbed.drivers import processes
from forkbed.drivers.doctor.findings import Finding, fail, ok, warn

# Program -> Debian package. A test holds this against the list of packages that set-up installs.
PACKAGES = {
    "dnsmasq": "dnsmasq-base",
    "extlinux": "extlinux",
    "fuse2fs": "fuse2fs",
    "genisoimage": "genisoimage",
    "ip": "iproute2",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "nsenter": "util-linux",
    "losetup": "mount",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "sfdisk": "fdisk",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "virsh": "libvirt-clients",
}
# What was tested; older ones lack something that is relied on.
_OLDEST = {"qemu-system-x86_64": (7, 2), "virsh": (9, 0), "nft": (1, 0), "dnsmasq": (2, 87)}
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def examine_programs(find: Callable[[str], str | None] | None = None) -> Finding:
    """Name what is missing or too old, with the packages that bring it."""
    look = find or (lambda name: shutil.which(name, path=_SYSTEM_PATH))
    missing = [name for name in PACKAGES if look(name) is None]
    if missing:
        packages = sorted({PACKAGES[name] for name in missing})
        return fail(
            "programs",
            f"not installed: {', '.join(missing)}",
            f"apt-get install --no-install-recommends {' '.join(packages)}",
        )
    versions = {name: version_of(name) for name in _OLDEST}
    old = [name for name, oldest in _OLDEST.items() if (versions[name] or oldest) < oldest]
    if old:
        wanted = ", ".join(f"{name} {'.'.join(map(str, _OLDEST[name]))}" for name in old)
        return warn("programs", f"older than tested: {', '.join(old)}", f"tested from {wanted} on")
    shown = ", ".join(f"{name} {'.'.join(map(str, versions[name] or ()))}" for name in _OLDEST)
    return ok("programs", f"all {len(PACKAGES)} installed ({shown})")


def version_of(program: str) -> tuple[int, ...] | None:
    """The program's version; None if it does not tell."""
    try:
        completed = processes.run([program, "--version"], timeout_s=20, accept=None)
    except OperationalError:
        return None
    found = re.search(rb"\d+(?:\.\d+)+", completed.stdout + completed.stderr)
    return tuple(int(part) for part in found[0].split(b".")) if found else None
