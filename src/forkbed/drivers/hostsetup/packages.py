"""Debian packages of the host: which are there, install, remove without harming others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import processes

_APT = ("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300")
_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive"}
_TIMEOUT_S = 1800.0


class Packages(Protocol):
    """The packages of a host."""

    def installed(self) -> frozenset[str]:
        """The names of all installed packages."""

    def install(self, names: Sequence[str]) -> None:
        """Install these, and what they depend on."""

    def remove(self, names: Sequence[str]) -> None:
        """Remove these; UNSAFE if others would go too."""


class DebianPackages:
    """The packages of this machine, by apt."""

    def installed(self) -> frozenset[str]:
        completed = processes.run(["dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package}\n"])
        return frozenset(line[3:].strip() for line in completed.text.splitlines() if line.startswith("ii "))

    def install(self, names: Sequence[str]) -> None:
        self._apt("update")
        self._apt("install", "--no-install-recommends", *names)

    def remove(self, names: Sequence[str]) -> None:
        foreign = removed_by(self._apt("--simulate", "remove", *names)) - set(names)
        if foreign:
            raise OperationalError(
                Kind.UNSAFE,
                "packages",
                f"removing them would also remove {', '.join(sorted(foreign))}",
                "remove those first, or keep the packages",
            )
        self._apt("remove", *names)

    def _apt(self, *words: str) -> str:
        return processes.run(
            (*_APT, *words), timeout_s=_TIMEOUT_S, environment=_ENVIRONMENT, subject="packages"
        ).text


def removed_by(simulation: str) -> set[str]:
    """The packages that a simulated apt-get run would remove."""
    return set(re.findall(r"^(?:Remv|Purg) (\S+)", simulation, re.MULTILINE))
