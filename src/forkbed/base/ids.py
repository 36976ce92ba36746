"""Identifiers: what they look like and how they are drawn.

An id is a short lower-case string that is safe in file names, libvirt names and URLs. Randomness is an
argument everywhere below the engine, so tests and the simulated host draw the same ids every time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NewType

InstallationId = NewType("InstallationId", str)  # 4 characters; in every name that Forkbed gives on a host
SystemId = NewType("SystemId", str)
MachineId = NewType("MachineId", str)
NetworkId = NewType("NetworkId", str)
VolumeId = NewType("VolumeId", str)
ImageId = NewType("ImageId", str)  # BLAKE3, 64 hexadecimal digits
OperationId = NewType("OperationId", str)
SnapshotId = NewType("SnapshotId", str)
RehearsalId = NewType("RehearsalId", str)

_ALPHABET = "0123456789abcdefghijkmnpqrstuvwxyz"  # without l and o: they are read as 1 and 0
NAME_PATTERN = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")

DrawId = Callable[[int], str]
"""Draws a fresh id of the given length."""


def draw_id(length: int) -> str:
    """A random id of `length` characters from the operating system's generator."""
    from secrets import choice  # here, as every command imports this module, and few draw

    return "".join(choice(_ALPHABET) for _ in range(length))


def draw_uuid() -> str:
    """A random UUID from the operating system's generator."""
    from uuid import uuid4

    return str(uuid4())


def is_name(text: str) -> bool:
    """Whether `text` may name a system, machine, network or volume: a DNS label that begins with a letter."""
    return NAME_PATTERN.fullmatch(text) is not None
