"""Where intents are kept: a directory for each network, which outlives the runtime directory and the host's boots.

Each names the system that it belongs to, so that a network of which nothing else is left is still somebody's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from forkbed.base.ids import NetworkId, SystemId
from forkbed.drivers.networks.records import write_if_changed

_OWNER = "system"


@dataclass(frozen=True, slots=True)
class KeptIntents:
    """The directories below `root`."""

    root: Path

    def directory(self, network_id: NetworkId) -> Path:
        """Where the network's intents are."""
        return self.root / network_id

    def make(self, network_id: NetworkId, system_id: SystemId) -> Path:
        """The network's directory, made if need be; only root can look into it."""
        directory = self.directory(network_id)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_if_changed(directory / _OWNER, system_id)
        return directory

    def owners(self) -> dict[NetworkId, SystemId]:
        """Every network with intents, and its system; an empty id where a crash left none."""
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.root):
                try:
                    owner = (self.root / name / _OWNER).read_text()
                except FileNotFoundError:
                    owner = ""
                found[NetworkId(name)] = SystemId(owner)
        return found

    def remove(self, network_id: NetworkId) -> bool:
        """Forget the network's intents; returns whether there were any."""
        try:
            shutil.rmtree(self.directory(network_id))
        except FileNotFoundError:
            return False
        return True
