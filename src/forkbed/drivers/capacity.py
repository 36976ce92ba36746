"""`ports.capacity` on Linux."""

from __future__ import annotations

from pathlib import Path

from forkbed.base.errors import Kind, OperationalError

_MEMINFO = Path("/proc/meminfo")


class LinuxCapacity:
    """This host's memory, as the kernel estimates it."""

    def __init__(self, meminfo: Path = _MEMINFO) -> None:
        self._meminfo = meminfo

    def available_memory_bytes(self) -> int:
        """The kernel's MemAvailable."""
        for line in self._meminfo.read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
        raise OperationalError(
            Kind.FAULT,
            str(self._meminfo),
            "does not tell how much memory is available",
            "use Linux 3.14 or newer",
        )
