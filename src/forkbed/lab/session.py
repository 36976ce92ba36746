"""What one does with a running lab: run commands in it, reach its sockets, start Forkbed in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from forkbed.drivers import processes
from forkbed.drivers.liveness import ProcessId
from forkbed.lab.layout import OUTSIDE_NETWORK, TRANSIT_POOL, WORLD_NAMESPACE, LabPaths

_SERVE_TIMEOUT_S = 60.0
# Where Forkbed keeps things is decided by the lab inside it; only the cache is shared with the host.
_KEPT_VARIABLES = frozenset({"FORKBED_CACHE_DIR", "FORKBED_LAB_DIR"})


@dataclass(frozen=True, slots=True)
class Lab:
    """A running lab. `init` is its first process, by the host's pid."""

    paths: LabPaths
    init: ProcessId

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.paths.name

    @property
    def libvirt_uri(self) -> str:
        """How libvirt in the lab is reached from outside."""
        return f"qemu:///system?socket={self.paths.libvirt_socket}"

    @property
    def api_socket(self) -> Path:
        """The socket of `forkbed serve` in the lab, as seen from outside."""
        return self.paths.api_socket

    def command(self, argv: Sequence[processes.Argument], *, world: bool = False) -> tuple[str, ...]:
        """The command, for the host, that runs `argv` in all namespaces of the lab, in the current directory.

        `world` runs it in the network that stands for the outside, beside the lab's host.
        """
        words = tuple(os.fspath(word) for word in argv)
        if world:
            words = ("nsenter", f"--net=/run/netns/{WORLD_NAMESPACE}", "--", *words)
        directory = Path.cwd()
        inside = Path("/") if directory.is_relative_to("/run") else directory
        return (
            *("nsenter", f"--target={self.init.pid}", "--mount", "--net", "--uts", "--ipc", "--pid"),
            *(f"--wdns={inside}", "--", "env", *_variables(), *words),
        )

    def run(
        self,
        argv: Sequence[processes.Argument],
        *,
        timeout_s: float = 60.0,
        input: bytes | None = None,  # noqa: A002  as in `processes.run`
        accept: Collection[int] | None = (0,),
        world: bool = False,
    ) -> processes.Completed:
        """Run a command in the lab to its end; as `processes.run` otherwise."""
        return processes.run(
            self.command(argv, world=world),
            timeout_s=timeout_s,
            input=input,
            accept=accept,
            subject=f"lab {self.name}",
        )

    def start_serve(self) -> None:
        """Start `forkbed serve` in the lab, if it does not run there yet, and wait until it answers."""
        self.run((forkbed_program(), "serve", "--detach"), timeout_s=_SERVE_TIMEOUT_S)


def forkbed_program() -> Path:
    """The `forkbed` command of the environment that this code runs in."""
    return Path(sys.executable).with_name("forkbed")


def _variables() -> tuple[str, ...]:
    """Arguments for `env`: the settings that hold inside a lab, and no others of the host."""
    foreign = [name for name in os.environ if name.startswith("FORKBED_") and name not in _KEPT_VARIABLES]
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    return (
        *(f"--unset={name}" for name in sorted(foreign)),
        f"FORKBED_TRANSIT_POOL={TRANSIT_POOL}",
        f"FORKBED_BUILD_NETWORK_NAMESPACE={OUTSIDE_NETWORK}",
        f"PATH={path}",
    )
