"""Which paths a comparison looks at: what was asked for, without what always differs. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

NOISE: tuple[str, ...] = (
    # what a running Debian system writes by itself; a trailing slash means everything below
    "/dev/",
    "/proc/",
    "/run/",
    "/sys/",
    "/tmp/",
    "/var/backups/",
    "/var/cache/",
    "/var/log/",
    "/var/run/",
    "/var/spool/postfix/",
    "/var/tmp/",
    "/var/lib/apt/extended_states",
    "/var/lib/apt/lists/",
    "/var/lib/apt/periodic/",
    "/var/lib/chrony/",
    "/var/lib/cloud/",
    "/var/lib/dhcp/",
    "/var/lib/dpkg/info/",
    "/var/lib/dpkg/*-old",
    "/var/lib/dpkg/available",
    "/var/lib/dpkg/lock",
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/status",  # told as packages
    "/var/lib/dpkg/triggers/",
    "/var/lib/forkbed/",  # marks of what Forkbed did in the guest, and the scripts of steps
    "/var/lib/logrotate/",
    "/var/lib/man-db/",
    "/var/lib/mlocate/",
    "/var/lib/NetworkManager/",
    "/var/lib/plocate/",
    "/var/lib/private/systemd/",
    "/var/lib/systemd/",
    "/var/lib/ucf/cache/",
    "/etc/.pwd.lock",
    "/etc/adjtime",
    "/etc/ld.so.cache",
    "/etc/mtab",
    "/lost+found",
    "/lost+found/",
    "/root/.bash_history",
    "__pycache__/",
    "*.pyc",
    "/etc/passwd-",
    "/etc/group-",
    "/etc/shadow-",
    "/etc/gshadow-",
)
"""Logs, caches and run-time files."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What to look at. `paths`: only these and what is below them; () is everything. `noise`: as `NOISE`, left out.

    A pattern of noise beginning with "/" is a path of the file system, another one a name at any depth. "*" is
    anything but a slash. A trailing slash takes what is below, not the directory itself.
    """

    paths: tuple[str, ...] = ()
    noise: tuple[str, ...] = NOISE

    def matcher(self) -> Matcher:
        return Matcher(self)


class Matcher:
    """Tells of paths ("/etc/hosts") whether a selection has them."""

    def __init__(self, selection: Selection) -> None:
        self._below = tuple(path.rstrip("/") for path in selection.paths)
        self._noise = re.compile(_expression(selection.noise)) if selection.noise else None

    def wanted(self, path: str) -> bool:
        """Whether the path was asked for."""
        if not self._below:
            return True
        return any(_holds(top, path) for top in self._below)

    def noisy(self, path: str) -> bool:
        """Whether the path is left out because it always differs. One that was asked for by name never is."""
        if self._noise is None or self._noise.match(path) is None:
            return False
        return not any(
            self._noise.match(top) or self._noise.match(f"{top}/x")
            for top in self._below
            if top and _holds(top, path)
        )


def _holds(top: str, path: str) -> bool:
    return path == top or path.startswith(f"{top}/")


def _expression(patterns: Sequence[str]) -> str:
    return "|".join(f"(?:{_one(pattern)})" for pattern in patterns)


def _one(pattern: str) -> str:
    start = "" if pattern.startswith("/") else ".*/"
    end = ".+" if pattern.endswith("/") else r"\Z"
    body = "".join("[^/]*" if character == "*" else re.escape(character) for character in pattern)
    return f"{start}{body}{end}"
