"""A full disk refuses changes in plain words, changes nothing by that, and can be relieved."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from forkbed.drivers import processes

_CHECKOUT = Path(__file__).parents[3]


def test_no_space_is_told_and_does_no_harm(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size=4m none {shlex.quote(str(disk))} && "
        f"exec {shlex.quote(sys.executable)} -m tests.unit.volumes.full_disk "
        f"{shlex.quote(str(disk))} {shlex.quote(str(tmp_path))}"
    )
    own_user = [] if os.geteuid() == 0 else ["--map-root-user"]
    done = processes.run(
        ["unshare", *own_user, "--mount", "--", "sh", "-c", script],
        environment={"PYTHONPATH": str(_CHECKOUT)},
        accept=None,
    )
    assert done.status == 0, f"{done.text}\n{done.stderr.decode()}"
    assert done.text.count("No space left on device") == 5
