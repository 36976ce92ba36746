"""How a fork's recorder is run by its keeper."""

from __future__ import annotations

import sys

from forkbed.drivers.networks import recorder as package
from forkbed.drivers.networks.keeper import Program
from forkbed.drivers.networks.recorder.files import FileLimits

SETTINGS = "recorder.json"
PID = "recorder.pid"


def recorder() -> Program:
    """The recorder whose settings and process ids are in the network's directory."""
    return Program(
        name="the recorder",
        # -P: nothing is imported from wherever `serve` was started
        command=(sys.executable, "-P", "-m", package.__name__, ""),
        configuration=SETTINGS,
        pid=PID,
        keeper_pid="recorder-keeper.pid",
        log="recorder.log",
        largest_file_bytes=FileLimits().most_bytes,
    )
