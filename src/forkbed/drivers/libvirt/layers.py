"""Shorten the chain of a running machine's disk: jobs of libvirt's, waited for, and looked at afterwards.

A job that a process before us began is waited for too. What counts is the chain at the end, not the job's word.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any
from xml.etree import ElementTree

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.systems.steps import Effect
from forkbed.drivers.libvirt.monitor import Monitor
from forkbed.drivers.libvirt.saveimage import disk_files, disk_serial, disk_target
from forkbed.ports.progress import Cancelled, Progress

OnDomain = Callable[[str, Callable[[Any], Any]], Any]
"""Calls a function with the machine's domain: (action, function)."""

_LOOK_AGAIN_S = 0.05
_CONCLUSIONS_S = 5.0


def commit(on_domain: OnDomain, subject: str, serial: str, top: str, into: str, progress: Progress) -> Effect:
    """Write the layer `top` down into `into`. See `ports.cuts`."""
    target, chain = _await_idle(on_domain, subject, serial, progress)
    if top not in chain:
        return Effect.ALREADY
    place = chain.index(top)
    if place == 0 or chain[place + 1 : place + 2] != (into,):
        raise _not_so(subject, serial, f"{into} is not right below {top}, or {top} is written to", chain)
    on_domain(
        f"commit a layer of {serial}",
        lambda domain: domain.blockCommit(target, into, top, 0, 0),
    )
    _, after = _await_idle(on_domain, subject, serial, progress, lambda files: top not in files)
    if top in after:
        raise _not_so(subject, serial, f"{top} could not be committed", after)
    return Effect.CHANGED


def pull(on_domain: OnDomain, subject: str, serial: str, keep: str, progress: Progress) -> Effect:
    """Copy what lies above `keep` into the active layer. See `ports.cuts`."""
    target, chain = _await_idle(on_domain, subject, serial, progress)
    wanted = (keep,) if keep else ()
    if chain[1:2] == wanted:
        return Effect.ALREADY
    if keep and keep not in chain[1:]:
        raise _not_so(subject, serial, f"it does not stand on {keep}", chain)
    on_domain(
        f"pull layers of {serial}",
        lambda domain: domain.blockRebase(target, keep or None, 0, 0),
    )
    _, after = _await_idle(on_domain, subject, serial, progress, lambda files: files[1:2] == wanted)
    if after[1:2] != wanted:
        raise _not_so(subject, serial, "its layers could not be pulled", after)
    return Effect.CHANGED


def flush(on_domain: OnDomain, subject: str, serial: str) -> None:
    """Have on disk what QEMU holds back of the disk. See `ports.cuts`.

    A pull ends with the tables of the active layer's clusters in QEMU's memory only: if it died then, whoever reads
    the file would find nothing of what was copied into it.
    """

    def ask(domain: Any) -> None:
        _, files = _disk(domain, subject, serial)
        Monitor(domain, subject).flush(files[0])

    on_domain(f"flush its disk {serial}", ask)


def _await_idle(
    on_domain: OnDomain,
    subject: str,
    serial: str,
    progress: Progress,
    is_done: Callable[[tuple[str, ...]], bool] | None = None,
) -> tuple[str, tuple[str, ...]]:
    """libvirt's name of the disk and its files, once no job works on it. A cancelled job changes nothing.

    A job is gone before libvirt has drawn its conclusions: `is_done` says what files to wait for, for a while.
    """

    def look(domain: Any) -> tuple[str, tuple[str, ...], dict[str, int]]:
        target, files = _disk(domain, subject, serial)
        return target, files, dict(domain.blockJobInfo(target, 0) or {})

    gone_at: float | None = None
    while True:
        target, files, job = on_domain(f"look at its disk {serial}", look)
        if job:
            gone_at = None
            _tell(on_domain, serial, target, job, progress)
        else:
            now = time.monotonic()
            gone_at = gone_at if gone_at is not None else now
            if is_done is None or is_done(files) or now - gone_at > _CONCLUSIONS_S:
                return target, files
        time.sleep(_LOOK_AGAIN_S)


def _tell(on_domain: OnDomain, serial: str, target: str, job: Mapping[str, int], progress: Progress) -> None:
    end = job.get("end", 0)
    progress.tell(f"folding {serial}", done=job.get("cur", 0) / end if end else None)
    try:
        progress.check_cancelled()
    except Cancelled:
        with suppress(OperationalError):  # it may just have ended; what is left of it the next one waits for
            on_domain(f"end the job on {serial}", partial(_abort, target=target))
        raise


def _abort(domain: Any, target: str) -> None:
    domain.blockJobAbort(target, 0)


def _disk(domain: Any, subject: str, serial: str) -> tuple[str, tuple[str, ...]]:
    if not domain.isActive():
        raise OperationalError(
            Kind.CONFLICT, subject, "it does not run", "fold the files of a machine that is off"
        )
    if Monitor(domain, subject).status() == "postmigrate":
        raise OperationalError(
            Kind.CONFLICT,
            subject,
            "its disks cannot be folded while it stands still after its memory was saved",
            "resume it first, or stop it",
        )
    live = ElementTree.fromstring(domain.XMLDesc(0))
    for disk in live.iterfind("devices/disk"):
        if disk_serial(disk) == serial:
            return disk_target(disk), disk_files(disk)
    raise OperationalError(Kind.NOT_FOUND, subject, f"it has no disk {serial}")


def _not_so(subject: str, serial: str, brief: str, chain: tuple[str, ...]) -> OperationalError:
    return OperationalError(
        Kind.CONFLICT,
        subject,
        f"disk {serial}: {brief}",
        "look at what changed the chain, and try again",
        details=tuple(f"layer: {path}" for path in chain),
    )
