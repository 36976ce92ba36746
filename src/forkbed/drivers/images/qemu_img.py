"""qemu-img: formats in and out, always under limits, never guessing a format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import processes
from forkbed.drivers.images.watched import run_contained
from forkbed.ports.progress import Progress

_MEMORY_BYTES = 2 * 1024**3  # address space: a crafted file must not eat the host's memory
_PROCESSOR_S = 3600
_LIMITS = ("prlimit", f"--as={_MEMORY_BYTES}", f"--cpu={_PROCESSOR_S}", "--core=0", "--")
_CHECK_UNSUPPORTED = 63


@dataclass(frozen=True, slots=True)
class DiskInformation:
    """What qemu-img says of a file. `other_files` are those it would open besides."""

    virtual_bytes: int
    other_files: tuple[str, ...]


def information(path: Path, disk_format: str, *, subject: str) -> DiskInformation:
    """Look at a file as `disk_format`. INVALID if it is none."""
    argv = (*_LIMITS, "qemu-img", "info", "--output=json", "-f", disk_format, path)
    completed = processes.run(argv, accept=None, timeout_s=60, subject=subject)
    if completed.status != 0:
        raise _broken(subject, disk_format, completed)
    told = json.loads(completed.stdout)
    specific = told.get("format-specific", {}).get("data", {})
    others = [told.get("backing-filename"), specific.get("data-file")]
    others += [extent.get("filename") for extent in specific.get("extents", [])]
    return DiskInformation(
        int(told["virtual-size"]), tuple(other for other in others if other and Path(other) != path)
    )


def check(path: Path, disk_format: str, *, subject: str) -> None:
    """Let qemu-img check the file's structure, where its format has one. INVALID if it is broken."""
    argv = (*_LIMITS, "qemu-img", "check", "-f", disk_format, path)
    completed = processes.run(argv, accept=None, timeout_s=600, subject=subject)
    if completed.status not in (0, 3, _CHECK_UNSUPPORTED):  # 3: wasted space, nothing wrong
        raise _broken(subject, disk_format, completed)


def convert(  # noqa: PLR0913
    source: Path,
    source_format: str,
    target: Path,
    target_format: str,
    *,
    log: Path,
    subject: str,
    progress: Progress,
    compressed: bool = False,
) -> None:
    """Write `target` anew with the disk in `source`; zeros become holes."""
    options = ("-c", "-o", "compression_type=zstd") if compressed else ()
    argv = ("qemu-img", "convert", "-f", source_format, "-O", target_format, *options, source, target)
    run_contained((*_LIMITS, *argv), log=log, subject=subject, progress=progress, timeout_s=_PROCESSOR_S)


def _broken(subject: str, disk_format: str, completed: processes.Completed) -> OperationalError:
    return OperationalError(
        Kind.INVALID,
        subject,
        f"it looks like {disk_format}, but it is damaged or truncated",
        "fetch or copy it again",
        details=completed.complaint,
    )
