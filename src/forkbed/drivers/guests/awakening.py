"""Tell a guest that goes on from a memory what time it is, and have it draw other random numbers than its twins.

Clock first, then randomness, both through the agent and at once after the machine goes on. A window stays: until the
agent has answered (some milliseconds as a rule, up to the time limit), programs in the guest run with the old clock,
and two forks of one cut may draw the same numbers from the kernel. And the kernel is all that can be renewed from
outside: what a program keeps in its own memory (generators of OpenSSL, of a Java or Python program, keys and nonces
already drawn) is the same in every fork, as it has to be for the program to go on.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.systems.spec import ResolvedMachine
from forkbed.drivers.guests.agent import Agents
from forkbed.drivers.processes import last_lines

_SECOND_NS = 1_000_000_000
_POLL_S = 0.02
_PING_TIMEOUT_S = 2.0
_CALL_TIMEOUT_S = 5.0
_PROGRAM = "/usr/lib/forkbed/awaken"  # in images that Forkbed built
_CLOCK_FAILED = 128  # is added to its status
_WEAK_STATUS = 77
_NO_DATE = "no date"
_WAKE = f"(date -u -s @{{now}} || date -u -s @{{second}}) >/dev/null 2>&1 || echo {_NO_DATE}\n"
# perl is in every Debian. A plain write is mixed in but used at the kernel's next turn only.
_RESEED = f"""
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
if command -v perl >/dev/null; then exec perl -e '
    local $/;
    my $bytes = <STDIN>;
    open(my $device, "+<", "/dev/urandom") or die "/dev/urandom: $!\\n";
    my $pool = pack("i i a*", 8 * length $bytes, length $bytes, $bytes);
    ioctl($device, 0x40085203, $pool) or die "RNDADDENTROPY: $!\\n";
    ioctl($device, 0x5207, 0) or die "RNDRESEEDCRNG: $!\\n";'
fi
cat >/dev/urandom && exit {_WEAK_STATUS}
"""
_WEAK = f"mixed in, but without {_PROGRAM} or perl in the guest its kernel draws from it only within minutes"


def awaken(agents: Agents, machine: ResolvedMachine, now: float, entropy: bytes, timeout_s: float) -> str:
    """See `ports.guests.Awakening`. `now` is the time at this call."""
    guest = _Guest(agents, machine, now, timeout_s)
    try:
        guest.await_agent()
        return guest.wake(entropy)
    except OperationalError as error:
        return f"clock and randomness are as they were at the cut: {error.brief}"


@dataclass(frozen=True, slots=True)
class _End:
    """How a program ended: its status (less than 0 for a signal), what it said last of errors, what it printed."""

    status: int
    said: str
    printed: str


class _Guest:
    """One guest while it wakes up."""

    def __init__(self, agents: Agents, machine: ResolvedMachine, now: float, timeout_s: float) -> None:
        self._agents = agents
        self._machine = machine
        self._ahead_s = now - time.monotonic()
        self._deadline = time.monotonic() + timeout_s

    def await_agent(self) -> None:
        """Return when the agent answers; raises what was said of it last."""
        while True:
            try:
                self._call("guest-ping", {}, longest_s=_PING_TIMEOUT_S)
            except OperationalError as error:
                if error.kind is not Kind.UNREACHABLE or time.monotonic() + _POLL_S > self._deadline:
                    raise
                time.sleep(_POLL_S)
            else:
                return

    def wake(self, entropy: bytes) -> str:
        """Step its clock, mix the entropy in and have the kernel draw anew; what of that failed."""
        now_ns = self._now_ns()
        words = [str(now_ns // _SECOND_NS), str(now_ns % _SECOND_NS)]
        try:
            pid = self._start(_PROGRAM, words, entropy)
        except OperationalError as error:
            if error.kind is Kind.UNREACHABLE:
                raise
            return self._wake_with_script(entropy)  # the program is not there
        end = self._end_of(pid)
        failures = self._clock_failures(end.status < 0 or end.status >= _CLOCK_FAILED)
        if end.status < 0:
            failures.append(f"randomness: {end.said}")
        elif end.status % _CLOCK_FAILED:
            failures.append(f"randomness: {os.strerror(end.status % _CLOCK_FAILED)}")
        return "; ".join(failures)

    def _wake_with_script(self, entropy: bytes) -> str:
        """The same with what the guest has, in one script: starting programs is slow in a guest that is emulated."""
        now = self._now_ns() / _SECOND_NS
        script = _WAKE.format(now=f"{now:.3f}", second=f"{now:.0f}") + _RESEED
        end = self._end_of(self._start("/bin/sh", ["-c", script], entropy))
        failures = self._clock_failures(_NO_DATE in end.printed)
        if end.status == _WEAK_STATUS:
            failures.append(f"randomness: {_WEAK}")
        elif end.status:
            failures.append(f"randomness: {end.said or f'reseeding ended with status {end.status}'}")
        return "; ".join(failures)

    def _clock_failures(self, clock_failed: bool) -> list[str]:
        """Have the agent set the clock where nothing else could; what came of it.

        Not at first: it has the hardware clock written too, which waits for the next second, and nobody answers
        meanwhile; QEMU's goes on with the host's by itself.
        """
        if not clock_failed:
            return []
        try:
            self._call("guest-set-time", {"time": self._now_ns()})
        except OperationalError as error:
            return [f"clock: as it was at the cut: {error.brief}"]
        return []

    def _start(self, program: str, words: Sequence[str], data: bytes) -> int:
        """Start a program with these bytes as its input; its pid. FAULT if that cannot be."""
        order = {
            "path": program,
            "arg": list(words),
            "input-data": base64.b64encode(data).decode(),
            "capture-output": True,
        }
        return int(self._call("guest-exec", order)["pid"])

    def _end_of(self, pid: int) -> _End:
        """Wait for a program's end. UNREACHABLE when time is up."""
        while not (answer := self._call("guest-exec-status", {"pid": pid}))["exited"]:
            if time.monotonic() + _POLL_S > self._deadline:
                raise OperationalError(
                    Kind.UNREACHABLE, f"machine {self._machine.name}", "the guest takes too long"
                )
            time.sleep(_POLL_S)
        if "exitcode" not in answer:
            return _End(-answer.get("signal", 1), f"ended by signal {answer.get('signal', 1)}", "")
        said = last_lines(base64.b64decode(answer.get("err-data", "")))
        printed = base64.b64decode(answer.get("out-data", "")).decode(errors="replace")
        return _End(answer["exitcode"], said[-1] if said else "", printed)

    def _call(self, command: str, arguments: Mapping[str, object], longest_s: float = _CALL_TIMEOUT_S) -> Any:
        left_s = max(self._deadline - time.monotonic(), _POLL_S)
        return self._agents.call(self._machine.id, command, arguments, timeout_s=min(left_s, longest_s))

    def _now_ns(self) -> int:
        return int((self._ahead_s + time.monotonic()) * _SECOND_NS)
