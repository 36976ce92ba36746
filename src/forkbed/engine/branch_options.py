"""How to keep a cut, and how to fork.

Light, and apart from the views: the command line imports it before it asks for a fork.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SnapshotOptions:
    """`name` "": one is made of the time. `expires_in_s` None: it stays until somebody deletes it."""

    name: str = ""
    disks_only: bool = False
    message: str = ""
    expires_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class ForkOptions:
    """`at`: a snapshot's name, "" for now. `cold`: disks only, the machines boot. With `count` above 1 the forks
    are called `name-1`, `name-2`, …"""

    name: str
    at: str = ""
    cold: bool = False
    count: int = 1
    expires_in_s: float | None = None
    message: str = ""
