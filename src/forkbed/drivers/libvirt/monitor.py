"""QEMU's own monitor, reached through libvirt: the few words about streams of memory that libvirt has none for.

libvirt does not know of what is done here. So whoever turns the capability on has to turn it off again, and a
stream must never be cancelled while it is on: the machine would hang for good, though its status says `running`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import libvirt_qemu

from forkbed.base.errors import Kind, OperationalError

_CAPABILITY = "background-snapshot"
_FILE_NAME = "forkbed-memory"
_OVER = frozenset({"", "none", "completed", "failed", "cancelled"})
_NOTHING: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Stream:
    """How the last or present stream of a machine's memory is doing."""

    status: str  # QEMU's word
    error: str = ""
    pages: int = 0  # of memory, written so far

    @property
    def is_over(self) -> bool:
        return self.status in _OVER

    @property
    def is_complete(self) -> bool:
        return self.status == "completed"


class Monitor:
    """One running domain's monitor. Raises libvirt's errors, and FAULT with QEMU's words where QEMU refuses."""

    def __init__(self, domain: Any, subject: str) -> None:
        self._domain = domain
        self._subject = subject

    def ask(
        self, command: str, arguments: Mapping[str, object] = _NOTHING, *, files: tuple[int, ...] = ()
    ) -> Any:
        """What QEMU returns; `files` are open files handed over with the command."""
        text = json.dumps({"execute": command, "arguments": dict(arguments)})
        if files:
            said = libvirt_qemu.qemuMonitorCommandWithFiles(self._domain, text, list(files), 0)
            said = said[0] if isinstance(said, tuple) else said
        else:
            said = libvirt_qemu.qemuMonitorCommand(self._domain, text, 0)
        answer = json.loads(said)
        if "error" in answer:
            raise OperationalError(
                Kind.FAULT, self._subject, f"QEMU refuses `{command}`: {answer['error'].get('desc', '')}"
            )
        return answer.get("return")

    def status(self) -> str:
        """QEMU's word for what the machine does: `running`, `paused`, `postmigrate`, …"""
        return str(self.ask("query-status")["status"])

    def background_is_on(self) -> bool:
        """Whether the next stream would be a background snapshot."""
        found = self.ask("query-migrate-capabilities")
        return any(entry["capability"] == _CAPABILITY and entry["state"] for entry in found)

    def set_background(self, on: bool) -> None:
        """Raises FAULT where the host or the machine does not allow background snapshots."""
        self.ask("migrate-set-capabilities", {"capabilities": [{"capability": _CAPABILITY, "state": on}]})

    def bandwidth(self) -> int:
        """The limit for streams, bytes a second."""
        return int(self.ask("query-migrate-parameters")["max-bandwidth"])

    def set_bandwidth(self, bytes_per_s: int) -> None:
        self.ask("migrate-set-parameters", {"max-bandwidth": bytes_per_s})

    def blockers(self) -> tuple[str, ...]:
        """Why QEMU would refuse any stream of this machine's memory."""
        return tuple(self.ask("query-migrate").get("blocked-reasons", ()))

    def stream(self) -> Stream:
        said = self.ask("query-migrate")
        ram = said.get("ram", {})
        pages = int(ram.get("normal", 0)) + int(ram.get("duplicate", 0))
        return Stream(str(said.get("status", "")), str(said.get("error-desc", "")), pages)

    def hand_over(self, descriptor: int) -> None:
        """Give QEMU the open file that the next stream goes to."""
        self.ask("getfd", {"fdname": _FILE_NAME}, files=(descriptor,))

    def take_back(self) -> None:
        """Have QEMU close the file of a stream that was never begun."""
        self.ask("closefd", {"fdname": _FILE_NAME})

    def begin_stream(self) -> None:
        """Write the memory to the file handed over, in the background if that is on."""
        self.ask("migrate", {"uri": f"fd:{_FILE_NAME}"})

    def flush(self, file: str) -> None:
        """Have on disk what QEMU holds back of the disk whose active layer is that file."""
        devices = [d for d in self.ask("query-block") if d.get("inserted", {}).get("file") == file]
        if not devices:
            raise OperationalError(Kind.FAULT, self._subject, f"QEMU has no disk on {file} to flush")
        self.ask("human-monitor-command", {"command-line": f"qemu-io -d {devices[0]['qdev']} flush"})

    def cancel_plain_stream(self) -> None:
        """End a stream that is no background snapshot; the caller has made sure of that."""
        self.ask("migrate_cancel")
