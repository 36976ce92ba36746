"""Start the processes that a lab consists of, and wait until it can be used."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import liveness, processes
from forkbed.drivers.liveness import ProcessId
from forkbed.lab.layout import LabPaths, LabRecord
from forkbed.lab.session import Lab

_START_TIMEOUT_S = 60.0
_POLL_S = 0.02


def start(paths: LabPaths, record: LabRecord, *, bound: bool) -> Lab:
    """Start a lab of which nothing runs, and wait until libvirt answers in it.

    Each process is written down as soon as it is known, so that a start which is killed half-way can be cleared.
    """
    record.save(paths.record)
    init = _await_init(_start_init(paths, bound=bound), paths)
    record = replace(record, init=init)
    record.save(paths.record)
    lab = Lab(paths, init)
    await_libvirt(lab)
    start_proxy(paths, record, bound=bound)
    return lab


def start_proxy(paths: LabPaths, record: LabRecord, *, bound: bool) -> None:
    """Start the relay of published ports and write it down."""
    process = _spawn(paths, (sys.executable, "-m", "forkbed.lab.proxy", str(paths.root)), bound=bound)
    replace(record, proxy=liveness.identify(process.pid)).save(paths.record)


def await_libvirt(lab: Lab) -> None:
    """Wait until libvirt in the lab answers a question; its socket accepts connections before it can."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        if not liveness.is_alive(lab.init):
            raise _did_not_start(lab.paths, "its first process ended")
        if answers(lab.paths.libvirt_socket) and libvirt_answers(lab):
            return
        if time.monotonic() > deadline:
            raise _did_not_start(lab.paths, f"libvirt did not answer within {_START_TIMEOUT_S:g} s")
        time.sleep(_POLL_S)


def libvirt_answers(lab: Lab) -> bool:
    """Whether libvirt's QEMU driver in the lab can be used."""
    with contextlib.suppress(OperationalError):
        return processes.run(["virsh", "-c", lab.libvirt_uri, "uri"], timeout_s=15, accept=None).status == 0
    return False


def answers(path: Path) -> bool:
    """Whether somebody accepts connections on this Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _start_init(paths: LabPaths, *, bound: bool) -> processes.Process:
    """Start `unshare`, which holds the lab's first process: its death kills the lab as well."""
    outside = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        words = (
            *("unshare", "--net", "--uts", "--ipc", "--mount", "--propagation", "private"),
            *("--pid", "--fork", "--kill-child", "--mount-proc", "--"),
            *(sys.executable, "-m", "forkbed.lab.init", str(paths.root), str(outside)),
        )
        return _spawn(paths, words, bound=bound, pass_fds=(outside,))
    finally:
        os.close(outside)


def _spawn(
    paths: LabPaths, words: tuple[str, ...], *, bound: bool, pass_fds: tuple[int, ...] = ()
) -> processes.Process:
    with paths.log.open("ab") as log:
        return processes.spawn(
            processes.dying_with_parent(words) if bound else words,
            stdout=log,
            stderr=processes.STDOUT,
            pass_fds=pass_fds,
            own_session=True,
        )


def _await_init(holder: processes.Process, paths: LabPaths) -> ProcessId:
    """The lab's first process, seen from the host: the only child of `unshare`."""
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
    deadline = time.monotonic() + _START_TIMEOUT_S
    while holder.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if (pids := children.read_text().split()) and (found := liveness.identify(int(pids[0]))):
                return found
        time.sleep(_POLL_S)
    raise _did_not_start(paths, "its namespaces could not be made")


def _did_not_start(paths: LabPaths, why: str) -> OperationalError:
    said = processes.last_lines(paths.log.read_bytes()) if paths.log.exists() else ()
    return OperationalError(
        Kind.FAULT,
        f"lab {paths.name}",
        f"it did not come up: {why}",
        "`forkbed doctor` checks namespaces and libvirt",
        details=said,
    )
