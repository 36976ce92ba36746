"""Keep a system's users off, and let them back: its manifest's hooks, and the mark that they have run."""

from __future__ import annotations

import threading
from dataclasses import replace

from forkbed.engine.life import Life
from forkbed.engine.replay import Replay
from forkbed.ports.store import SystemRecord


def has_hooks(record: SystemRecord) -> bool:
    """Whether its manifest says anything about maintenance."""
    return any(m.spec.maintenance_on or m.spec.maintenance_off for m in record.resolved.machines)


def maintain(life: Life, record: SystemRecord, *, on: bool, label: str = "") -> SystemRecord:
    """Run the hooks one way. Marked first when it begins and last when it ends, so a crash never leaves users off
    unnoticed. Letting users back is not cancelled."""
    store = life.around.store
    if on:
        record = replace(record, maintenance=True)
        store.save_system(record)
    ours = life if on else Life(life.around, life.operation, threading.Event())
    Replay(ours, record, label=label).hooks(on=on)
    if not on:
        record = replace(record, maintenance=False)
        store.save_system(record)
    return record
