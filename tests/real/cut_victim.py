"""A process that makes a cut and is killed in the middle: `python -m tests.real.cut_victim ORDER-AS-JSON`.

The order: `uri`, `state`, `console`, `point`, and `disks` by machine id (serial: overlay). The points are named in
`_POINTS`; the process kills itself there, with all machines at the same point.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forkbed.base.ids import MachineId, SnapshotId
from forkbed.drivers.libvirt.cuts import LibvirtCuts
from forkbed.drivers.libvirt.freezing import MachineFreeze
from forkbed.drivers.libvirt.hypervisor import LibvirtHypervisor, LibvirtSettings
from forkbed.drivers.libvirt.monitor import Monitor
from forkbed.ports.cuts import CutOrder, DiskCut
from tests.real.bench_host import INSTALLATION

_POINTS: dict[str, tuple[type, str]] = {
    "prepared": (MachineFreeze, "freeze"),  # before the pause, with the capability on
    "paused": (MachineFreeze, "cut"),
    "disks cut": (Monitor, "begin_stream"),
    "streaming": (MachineFreeze, "stream_out"),
}


def _arm(owner: type, name: str, machines: int) -> None:
    """Replace a method by one that waits for all machines to come there, and dies."""
    together = threading.Barrier(machines)

    def die(*_: object) -> None:
        together.wait()
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, die)


def main(order: dict[str, Any]) -> None:
    """Make the cut, and die in it."""
    hypervisor = LibvirtHypervisor(
        LibvirtSettings(INSTALLATION, order["uri"], has_kvm=_no, console_dir=Path(order["console"]))
    )
    cuts = LibvirtCuts(hypervisor, Path(order["state"]))
    _arm(*_POINTS[order["point"]], machines=len(order["disks"]))
    orders = [
        CutOrder(MachineId(machine), tuple(DiskCut(*disk) for disk in disks.items()), memory=True)
        for machine, disks in order["disks"].items()
    ]
    cuts.cut(SnapshotId("victim"), orders, hold=False, quiesce=False)
    threading.Event().wait()


_no: Callable[[], bool] = lambda: False  # noqa: E731

if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
