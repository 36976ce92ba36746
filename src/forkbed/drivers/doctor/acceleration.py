"""Whether guests may use KVM here, proven by booting one.

`/dev/kvm` proves nothing: there are hosts on which it opens and creates machines, yet no Linux guest ever boots.
So a guest is booted with a time limit; what does not boot in time does not count. The answer holds for this boot
of the host, its kernel, this QEMU and this guest kernel, and is kept in the cache directory until one of them
changes.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import processes
from forkbed.drivers.doctor import proof_guest

QEMU = "qemu-system-x86_64"
_DEVICE = Path("/dev/kvm")
# The least that every x86-64 processor offers: what does not boot with it boots with nothing.
_CPU_MODEL = "qemu64"
# A guest that works is up in one or two seconds with KVM, in three or four under emulation.
_KVM_LIMIT_S = 10.0
_TCG_LIMIT_S = 120.0


class Accelerator(StrEnum):
    """What executes the guests' instructions. The values are libvirt's domain types."""

    KVM = "kvm"
    TCG = "qemu"


@dataclass(frozen=True, slots=True)
class Acceleration:
    """What guests shall use, why, and whether a guest was really booted with it."""

    accelerator: Accelerator
    proven: bool
    reason: str


Boot = Callable[[Accelerator, Path, float], str]
"""Boot the proof guest with this kernel within so many seconds; returns its mark, raises OperationalError."""


def prove_acceleration(
    cache_dir: Path, *, kernel: Path | None = None, device: Path = _DEVICE, boot: Boot | None = None
) -> Acceleration:
    """What guests shall use on this host. Takes a moment the first time after a boot, up to 10 s where KVM hangs.

    `kernel` is a Linux kernel to boot; by default one is looked for. Without any nothing can be proven: then it is
    emulation, and the answer is not kept. Concurrent callers wait for one proof. Raises FAULT if not even
    emulation boots a guest.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    with (cache_dir / ".acceleration.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kernel = kernel or proof_guest.find_kernel(cache_dir)
        if kernel is None:
            return Acceleration(
                Accelerator.TCG, False, "there is no kernel to boot yet; the first image build brings one"
            )
        kept = cache_dir / "acceleration.json"
        circumstances = _circumstances(kernel, device)
        known = _load(kept, circumstances)
        if known is None:
            known = _prove(kernel, device, boot or boot_guest)
            _save(kept, circumstances, known)
        return known


def boot_guest(accelerator: Accelerator, kernel: Path, timeout_s: float) -> str:
    """Boot the proof guest and return what it said; FAULT or UNREACHABLE, with its console, if it did not come up."""
    with tempfile.TemporaryDirectory(prefix="forkbed-proof-") as scratch:
        initramfs = Path(scratch) / "initramfs.gz"
        proof_guest.make_initramfs(initramfs)
        how = "kvm" if accelerator is Accelerator.KVM else "tcg"
        words = (
            *(QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-machine", f"q35,accel={how}", "-cpu", _CPU_MODEL, "-m", "256"),
            *("-kernel", kernel, "-initrd", initramfs, "-append", "console=ttyS0 quiet panic=-1"),
            *("-serial", "stdio"),
        )
        completed = processes.run(words, timeout_s=timeout_s, subject=f"a guest under {how.upper()}")
    said = next((line.strip() for line in completed.text.splitlines() if proof_guest.MARK in line), None)
    if said is None:
        raise OperationalError(
            Kind.FAULT,
            f"a guest under {how.upper()}",
            "it ended before it was up",
            details=completed.complaint,
        )
    return said


def _prove(kernel: Path, device: Path, boot: Boot) -> Acceleration:
    refusal = _refusal(device)
    if refusal is None:
        try:
            said = boot(Accelerator.KVM, kernel, _KVM_LIMIT_S)
        except OperationalError as error:
            refusal = f"{device} is there, but a guest did not boot with it: {error.brief}"
        else:
            return Acceleration(Accelerator.KVM, True, said)
    boot(Accelerator.TCG, kernel, _TCG_LIMIT_S)
    return Acceleration(Accelerator.TCG, True, refusal)


def _refusal(device: Path) -> str | None:
    """Why KVM need not be tried; None if it must be."""
    if not device.exists():
        return f"there is no {device}: the processor or the hypervisor above offers no virtualisation"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"{device} may not be opened"
    return None


def _circumstances(kernel: Path, device: Path) -> dict[str, object]:
    """What the proof holds for."""
    program = Path(shutil.which(QEMU) or QEMU)
    changed_ns = program.stat().st_mtime_ns if program.exists() else 0
    return {
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "host_kernel": platform.release(),
        "qemu": _qemu_version(program, changed_ns),
        "guest_kernel": str(kernel),
        "device": _refusal(device),
    }


@lru_cache(maxsize=1)
def _qemu_version(program: Path, _changed_ns: int) -> str:
    """Asked once a program: whoever defines several machines asks for the acceleration as often."""
    return processes.run([program, "--version"], timeout_s=20).text.splitlines()[0]


def _load(path: Path, circumstances: dict[str, object]) -> Acceleration | None:
    try:
        data = json.loads(path.read_text())
        if data["circumstances"] != circumstances:
            return None
        result = data["result"]
        return Acceleration(Accelerator(result["accelerator"]), bool(result["proven"]), str(result["reason"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _save(path: Path, circumstances: dict[str, object], result: Acceleration) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps({"circumstances": circumstances, "result": asdict(result)}))
    draft.rename(path)
