"""The guest agent as a fallback where ssh cannot reach: slow and without a terminal, but needs no network.

The agent has no streams. So a command's output goes into files in the guest, fetched piece by piece while it runs,
and its input through a named pipe, one short command for each piece.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Self

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId
from forkbed.drivers.guests import scripts
from forkbed.ports.guests import CommandRequest

AskAgent = Callable[[MachineId, str, float], str]
"""Sends a machine's agent a JSON text and returns its answer's; the hypervisor provides it."""

NOTICE = "through the guest agent: no terminal, slow, and output is held on the guest's disk (/var/tmp) until the end"
_CALL_TIMEOUT_S = 10.0
_PING_TIMEOUT_S = 2.0
_START_TIMEOUT_S = 15.0
_PIECE_BYTES = 256 * 1024
_SHORTEST_WAIT_S = 0.02
_LONGEST_WAIT_S = 0.2


class Agents:
    """The guests' agents, by machine."""

    def __init__(self, ask: AskAgent) -> None:
        self._ask = ask

    def ping(self, machine_id: MachineId) -> bool:
        """Whether the agent answers now."""
        try:
            self.call(machine_id, "guest-ping", timeout_s=_PING_TIMEOUT_S)
        except OperationalError:
            return False
        return True

    def call(
        self,
        machine_id: MachineId,
        command: str,
        arguments: Mapping[str, object] = MappingProxyType({}),
        timeout_s: float = _CALL_TIMEOUT_S,
    ) -> Any:
        """What the agent returns. UNREACHABLE if it does not answer, FAULT with its own words if it refuses."""
        text = json.dumps({"execute": command, "arguments": dict(arguments)})
        return json.loads(self._ask(machine_id, text, timeout_s)).get("return")

    def shell(self, machine_id: MachineId, script: str, data: bytes | None = None) -> int:
        """Start a script as root with these bytes as its input; returns its pid."""
        words: dict[str, object] = {"path": "/bin/sh", "arg": ["-c", script]}
        if data is not None:
            words["input-data"] = base64.b64encode(data).decode()
        started = self.call(machine_id, "guest-exec", words)
        return int(started["pid"])

    def status(self, machine_id: MachineId, pid: int) -> int | None:
        """How a process that `shell` started ended; None while it runs. Can be asked once after the end."""
        answer = self.call(machine_id, "guest-exec-status", {"pid": pid})
        if not answer["exited"]:
            return None
        return int(answer["exitcode"]) if "exitcode" in answer else 128 + int(answer.get("signal", 0))

    def read_file(self, machine_id: MachineId, path: str) -> str | None:
        """The text of a small file in the guest; None if there is none, or if the agent does not answer."""
        try:
            handle = self.call(machine_id, "guest-file-open", {"path": path, "mode": "r"})
            answer = self.call(machine_id, "guest-file-read", {"handle": handle})
            self.call(machine_id, "guest-file-close", {"handle": handle})
        except OperationalError:
            return None
        return base64.b64decode(answer["buf-b64"]).decode(errors="replace")

    def open(self, machine_id: MachineId, subject: str, request: CommandRequest) -> AgentChannel:
        """Start a command. CONFLICT if it wants a terminal."""
        if request.terminal is not None or not request.argv:
            raise OperationalError(
                Kind.CONFLICT,
                subject,
                "the guest agent offers no terminal",
                "use `forkbed console`, or give a command that needs none",
            )
        return AgentChannel(self, machine_id, subject, request)


class AgentChannel:
    """A command run by the agent, as `ports.guests.CommandChannel`."""

    via = "agent"
    notice = NOTICE

    def __init__(self, agents: Agents, machine_id: MachineId, subject: str, request: CommandRequest) -> None:
        self._agents = agents
        self._machine_id = machine_id
        self._token = secrets.token_hex(8)
        self._status: int | None = None
        self._drained = False
        script = scripts.agent_script(request.argv, request.user, self._token)
        self._pid = agents.shell(machine_id, script)
        self._files = {
            name: self._open_file(scripts.output_path(self._token, name), subject)
            for name in ("stdout", "stderr")
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            for handle in self._files.values():
                self._agents.call(self._machine_id, "guest-file-close", {"handle": handle})
            self._agents.shell(self._machine_id, scripts.end_script(self._token))
        except OperationalError:
            pass  # the guest is gone, and the command with it

    def read(self, timeout_s: float) -> tuple[str, bytes] | None:
        """The next ("stdout"|"stderr", bytes); ("", b"") if nothing came in time; None when both ended."""
        deadline = time.monotonic() + timeout_s
        wait_s = _SHORTEST_WAIT_S
        while not self._drained:
            over = self._status is not None
            for name, handle in self._files.items():
                answer = self._agents.call(
                    self._machine_id, "guest-file-read", {"handle": handle, "count": _PIECE_BYTES}
                )
                if answer["count"]:
                    return name, base64.b64decode(answer["buf-b64"])
            if over:
                self._drained = True  # nothing came after the command's end
                break
            self._look()
            if self._status is None:
                if time.monotonic() + wait_s > deadline:
                    return "", b""
                time.sleep(wait_s)
                wait_s = min(wait_s * 1.5, _LONGEST_WAIT_S)
        return None

    def write(self, data: bytes) -> None:
        """Pass bytes on, piece by piece; blocks while the guest does not take them."""
        for start in range(0, len(data), _PIECE_BYTES):
            piece = data[start : start + _PIECE_BYTES]
            pid = self._agents.shell(self._machine_id, scripts.agent_input_script(self._token), piece)
            wait_s = _SHORTEST_WAIT_S
            while self._agents.status(self._machine_id, pid) is None:
                if self._status is not None:
                    return
                time.sleep(wait_s)
                wait_s = min(wait_s * 1.5, _LONGEST_WAIT_S)

    def close_input(self) -> None:
        """The command sees the end of its input."""
        if self._status is None:
            self._agents.shell(self._machine_id, scripts.agent_close_script(self._token))

    def resize(self, rows: int, columns: int) -> None:
        """Nothing: there is no terminal."""

    def exit_status(self) -> int:
        """The command's exit status, once `read` returned None."""
        while self._status is None:
            self._look()
            if self._status is None:
                time.sleep(_LONGEST_WAIT_S)
        return self._status

    def _look(self) -> None:
        if self._status is None:
            self._status = self._agents.status(self._machine_id, self._pid)

    def _open_file(self, path: str, subject: str) -> int:
        """A handle in the agent for a file that the command's script is about to make."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                words = {"path": path, "mode": "r"}
                return int(self._agents.call(self._machine_id, "guest-file-open", words))
            except OperationalError as error:
                if error.kind is Kind.UNREACHABLE:
                    raise
                if time.monotonic() > deadline:
                    raise OperationalError(
                        Kind.FAULT, subject, f"the agent cannot start a command: {error.brief}"
                    ) from error
            time.sleep(_SHORTEST_WAIT_S)
