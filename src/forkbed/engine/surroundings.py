"""What all that work operations off share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from forkbed.engine.host import Host
from forkbed.engine.hub import Hub
from forkbed.ports.store import Store

Boundary = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What runners share. Steps run in `executor`; what waits for steps runs in `waiters`, so that it never takes
    the threads that it waits for. `boundary` is told every journalled step boundary: tests die there.

    `accepting` is held from considering a manifest until its revision is stored, and while what nothing names
    is forgotten. `stopping` is set when this controller ends: what is under way is left to the next one.
    """

    host: Host
    store: Store
    hub: Hub
    executor: Executor
    waiters: Executor
    boundary: Boundary
    accepting: threading.Lock = field(default_factory=threading.Lock)
    stopping: threading.Event = field(default_factory=threading.Event)
