"""The ports of one host, together: all that operations need of the world."""

from __future__ import annotations

from dataclasses import dataclass

from forkbed.ports.clock import Clock
from forkbed.ports.contents import Contents
from forkbed.ports.guests import Guests
from forkbed.ports.hypervisor import Hypervisor
from forkbed.ports.images import ImageLibrary
from forkbed.ports.networks import Networks
from forkbed.ports.sidecars import Sidecars
from forkbed.ports.volumes import Volumes


@dataclass(frozen=True, slots=True)
class Host:
    """One host. `name` is what people call it."""

    name: str
    clock: Clock
    hypervisor: Hypervisor
    networks: Networks
    volumes: Volumes
    images: ImageLibrary
    guests: Guests
    contents: Contents
    sidecars: Sidecars
