"""qcow2 files keep the promises of volumes and their cuts; `qemu-io` is the guest."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from forkbed.drivers.volumes.overlays import OverlayVolumes
from tests.contract import contracts, cut_contracts
from tests.contract.cut_contracts import DiskBench

_BLOCK_BYTES = 64 * 1024
_HIGHEST_VALUE = 9


class OverlayDisks:
    """Blocks of qcow2 files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.volumes = OverlayVolumes(directory)

    def write(self, path: str, block: int, value: int) -> None:
        assert self._ask(path, f"write -P {value} {block * _BLOCK_BYTES} {_BLOCK_BYTES}")

    def read(self, path: str, block: int) -> int:
        command = f"{block * _BLOCK_BYTES} {_BLOCK_BYTES}"
        found = [v for v in range(_HIGHEST_VALUE + 1) if self._ask(path, f"read -P {v} {command}")]
        assert len(found) == 1, found
        return found[0]

    def files(self) -> set[str]:
        return {str(path) for path in self._directory.rglob("*.qcow2")}

    def commit_as_guest_runs(self, above: str, top: str, into: str) -> None:
        for argv in (
            ["qemu-img", "commit", "-q", "-d", "-b", into, top],
            ["qemu-img", "rebase", "-q", "-u", "-F", "qcow2", "-b", into, above],
        ):
            subprocess.run(argv, check=True)

    def _ask(self, path: str, command: str) -> bool:
        done = subprocess.run(
            ["qemu-io", "-f", "qcow2", "-c", command, path], check=False, capture_output=True, text=True
        )
        return done.returncode == 0 and "verification failed" not in done.stdout


def test_volumes(tmp_path: Path) -> None:
    contracts.volumes_never_lose_data(OverlayVolumes(tmp_path))


@pytest.mark.parametrize("promise", cut_contracts.VOLUME_PROMISES)
def test_cuts_of_volumes(promise: Callable[[DiskBench], None], tmp_path: Path) -> None:
    promise(OverlayDisks(tmp_path))
