"""Whether the host itself is fit: space, memory, clock, kernel settings, libvirt."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from pathlib import Path

from forkbed.base.errors import OperationalError
from forkbed.base.units import format_size
from forkbed.drivers import processes
from forkbed.drivers.doctor.acceleration import Accelerator, prove_acceleration
from forkbed.drivers.doctor.findings import Finding, fail, ok, warn

_GIB = 1024**3
_SPACE_FAIL_BYTES, _SPACE_WARN_BYTES = 3 * _GIB, 20 * _GIB
_MEMORY_FAIL_BYTES, _MEMORY_WARN_BYTES = 512 * 1024**2, 2 * _GIB
_TIME_ERROR = 5  # adjtimex(2): the kernel does not think its clock is synchronised
_PREPARE = "run `forkbed host prepare`"


def examine_acceleration(cache_dir: Path) -> Finding:
    """Boot a guest, with KVM if that works."""
    found = prove_acceleration(cache_dir)
    if found.accelerator is Accelerator.KVM:
        return ok("hypervisor", f"KVM: {found.reason}")
    if not found.proven:
        return warn("hypervisor", f"not proven: {found.reason}", "build an image, then look again")
    return warn(
        "hypervisor",
        f"guests run, but under emulation (TCG), several times slower than with KVM: {found.reason}",
        "enable virtualisation in the firmware, or nested virtualisation in the hypervisor above",
    )


def examine_libvirt(uri: str) -> Finding:
    """Ask libvirt for its versions, as Forkbed would reach it."""
    try:
        said = processes.run(["virsh", "-c", uri, "version", "--daemon"], timeout_s=30).text
    except OperationalError as error:
        return fail(
            "libvirt",
            f"{uri} does not answer: {error.brief}",
            f"{_PREPARE}, or try Forkbed in `forkbed lab up`",
        )
    library, hypervisor, daemon = (
        found[1] if (found := re.search(pattern, said)) else "?"
        for pattern in (r"library: libvirt (\S+)", r"hypervisor: QEMU (\S+)", r"daemon: (\S+)")
    )
    return ok("libvirt", f"libvirt {daemon} (library {library}) with QEMU {hypervisor} at {uri}")


def examine_space(check: str, directory: Path) -> Finding:
    """Judge the free space where `directory` is or will be."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    evidence = f"{format_size(free)} free for {directory}"
    remedy = f"free some space there, or set FORKBED_{check.upper()}_DIR"
    if free < _SPACE_FAIL_BYTES:
        return fail(f"{check} space", evidence, remedy)
    if free < _SPACE_WARN_BYTES:
        return warn(f"{check} space", evidence, remedy)
    return ok(f"{check} space", evidence)


def examine_memory(meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """Judge the memory that guests could have now."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    available = int(found[1]) * 1024 if found else 0
    evidence = f"{format_size(available)} available"
    if available < _MEMORY_FAIL_BYTES:
        return fail("memory", evidence, "stop something, or add memory: not even a small guest fits")
    if available < _MEMORY_WARN_BYTES:
        return warn("memory", evidence, "only a few small guests fit")
    return ok("memory", evidence)


def examine_clock() -> Finding:
    """Ask the kernel whether something keeps its clock right; guests get their time from it."""
    # adjtimex reads when its argument is all zero; 256 bytes hold the structure on every architecture.
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(256))
    if state == _TIME_ERROR:
        return warn("clock", "nothing keeps this clock right, as far as the kernel knows", "install chrony")
    if state < 0:
        return warn("clock", f"the kernel does not tell: {os.strerror(ctypes.get_errno())}", "")
    return ok("clock", "synchronised")


def examine_kernel_settings(root: Path = Path("/proc/sys")) -> Finding:
    """Look at the two settings that `host prepare` makes."""
    wrong = []
    if _read(root / "net/ipv4/ip_forward") != "1":
        wrong.append(
            "net.ipv4.ip_forward is off: machines reach nothing outside, published ports do not work"
        )
    if _read(root / "vm/unprivileged_userfaultfd") == "0":
        wrong.append("vm.unprivileged_userfaultfd is off: live forks freeze longer when QEMU is not root")
    if wrong:
        return warn("kernel settings", "; ".join(wrong), _PREPARE)
    return ok("kernel settings", "forwarding and userfaultfd are on")


def examine_fuse(device: Path = Path("/dev/fuse")) -> Finding:
    """Open the FUSE device: disks are read through it without mounting them."""
    try:
        os.close(os.open(device, os.O_RDWR))
    except OSError as error:
        return warn(
            "fuse", f"{device}: {error.strerror}", "modprobe fuse; disks of guests cannot be read without it"
        )
    return ok("fuse", f"{device} can be opened")


def examine_apparmor(
    switch: Path = Path("/sys/module/apparmor/parameters/enabled"),
    rule: Path = Path("/etc/apparmor.d/local/abstractions/libvirt-qemu"),
) -> Finding:
    """Where AppArmor confines QEMU, Forkbed's directories must be allowed to it."""
    if _read(switch) != "Y":
        return ok("apparmor", "not in use")
    if "forkbed" not in _read(rule):
        return warn("apparmor", f"it is on, and {rule} does not allow QEMU Forkbed's files", _PREPARE)
    return ok("apparmor", "on, with Forkbed's rules")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
