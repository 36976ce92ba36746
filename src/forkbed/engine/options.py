"""What the controller is told once, besides its host and store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from forkbed.base.ids import DrawId


@dataclass(frozen=True, slots=True)
class Options:
    """The pool of transit subnets, where ids come from, and what `about` says of this program.

    A generation is kept in memory for `kept_in_memory_s`, then on disk.
    """

    transit_pool: IPv4Network
    draw_id: DrawId
    draw_uuid: Callable[[], str]
    about: Mapping[str, object]
    kept_in_memory_s: float
