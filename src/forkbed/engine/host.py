"""The ports of one host, together: all that operations need of the world."""

from __future__ import annotations

from dataclasses import dataclass

from forkbed.ports.capacity import Capacity
from forkbed.ports.clock import Clock
from forkbed.ports.contents import Contents
from forkbed.ports.cuts import MachineCuts
from forkbed.ports.disks import Disks
from forkbed.ports.guests import Awakening, Guests
from forkbed.ports.hypervisor import Hypervisor
from forkbed.ports.images import ImageLibrary
from forkbed.ports.networks import Networks, Recorder
from forkbed.ports.sidecars import Sidecars
from forkbed.ports.volumes import VolumeCuts, Volumes


@dataclass(frozen=True, slots=True)
class Host:
    """One host. `name` is what people call it."""

    name: str
    clock: Clock
    capacity: Capacity
    hypervisor: Hypervisor
    cuts: MachineCuts
    networks: Networks
    recorder: Recorder
    volumes: Volumes
    disks: Disks
    volume_cuts: VolumeCuts
    images: ImageLibrary
    guests: Guests
    awakening: Awakening
    contents: Contents
    sidecars: Sidecars
