"""What the fork benchmark looks at: a system's guests, a client of theirs, agents that answer, memory and disk used."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu

from benchmarks.labbed import Bench

PORT = 7000
SERVICE = "/usr/sbin/guest_service"
_HERE = Path(__file__).parent
_SOURCES = ("poller.py", "plain_fork.py")
_AGENT_LIMIT_S = 120.0
_SETTLED_GAP_S = 0.1
_CALM_S, _CALM_LIMIT_S = 3.0, 60.0
_NAP_S, _LATE_S = 0.005, 0.02
_SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class System:
    """A system that is up: its domains' names, and addresses that answer on a network in `namespace`."""

    bench: Bench
    name: str
    prefix: str  # of every name on the host
    domains: tuple[str, ...]
    addresses: tuple[str, ...]
    namespace: str

    def domain_of(self, system: str, number: int = 0) -> str:
        """The domain of the machine with that number in another system, such as a fork."""
        return self.domains[number].replace(f"{self.prefix}-{self.name}.", f"{self.prefix}-{system}.")


def manifest(name: str, machines: int, memory: str, held_mib: int) -> str:
    """A system of machines that echo on the network, and hold that much of their memory."""
    service = f"setsid {SERVICE} echo {PORT} {held_mib} >/dev/null 2>&1 </dev/null &"
    machine = (
        f"{{image: micro, memory: {memory}, setup: [{{when: boot, run: '{service}'}}],"
        f" files: [{{path: {SERVICE}, mode: '0755', source: guest_service}}]}}"
    )
    lines = [f"  m{number}: {machine}" for number in range(machines)]
    return "\n".join(
        ["version: 1", f"system: {name}", "networks:", "  lan: {subnet: 10.77.0.0/24}", "machines:", *lines]
    )


def prepare(bench: Bench) -> None:
    """Compile the guests' service, and put the scripts where the lab sees them."""
    service = bench.directory / "guest_service"
    argv = ["gcc", "-static", "-Os", "-s", "-o", str(service), str(_HERE / "guest_service.c")]
    subprocess.run(argv, check=True)
    for name in _SOURCES:
        shutil.copy(_HERE / name, bench.state_dir / name)


@contextmanager
def system(
    bench: Bench, name: str, machines: int, *, memory: str = "256MiB", held_mib: int = 0
) -> Iterator[System]:
    """A system that is up and answers; gone afterwards."""
    path = bench.directory / f"{name}.yaml"
    path.write_text(manifest(name, machines, memory, held_mib))
    before = _namespaces(bench)
    bench.forkbed("up", path)
    shown = json.loads(bench.forkbed("show", name, "--json"))
    addresses = tuple(machine["addresses"][0][1] for machine in shown["machines"])
    listed = bench.inside(["virsh", "list", "--name"]).stdout.split()
    domains = tuple(
        next(domain for domain in listed if domain.endswith(f"-{name}.{machine['name']}"))
        for machine in shown["machines"]
    )
    prefix = domains[0].removesuffix(f"-{name}.{shown['machines'][0]['name']}")
    (namespace,) = _namespaces(bench) - before
    made = System(bench, name, prefix, domains, addresses, namespace)
    _await_service(made)
    try:
        yield made
    finally:
        bench.forkbed("down", name, "--delete")


def _namespaces(bench: Bench) -> set[str]:
    return {line.split()[0] for line in bench.inside(["ip", "netns", "list"]).stdout.splitlines()}


def _await_service(made: System) -> None:
    """Return when every guest answers without long gaps: memory that is still being filled makes gaps."""
    for _ in range(60):
        with client(made) as answers:
            began = time.monotonic()
            time.sleep(1.0)
        if all(
            largest_gap(times, began + 0.2, began + 1.0)[0] < _SETTLED_GAP_S for times in answers.values()
        ):
            return
    raise SystemExit(f"{made.name}: its guests do not answer")


@contextmanager
def client(made: System) -> Iterator[dict[str, list[float]]]:
    """Ask every guest each 5 ms meanwhile; the mapping, by address, is filled at the end."""
    script = "/var/lib/forkbed/poller.py"
    argv = ["ip", "netns", "exec", made.namespace, sys.executable, script, str(PORT), *made.addresses]
    process = subprocess.Popen(
        made.bench.lab.command(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    answers: dict[str, list[float]] = {}
    try:
        yield answers
    finally:
        answers.update(json.loads(process.communicate("\n", timeout=60)[0]))


def largest_gap(times: Sequence[float], since: float, until: float) -> tuple[float, float]:
    """The longest time without an answer in between, and when it began."""
    inside = [since, *(time for time in times if since < time < until), until]
    return max((later - earlier, earlier) for earlier, later in pairwise(inside))


def await_calm() -> None:
    """Return when nothing has held this machine up for a while, or after a minute.

    What a round frees, a hypervisor below may take back some seconds later, when all stands still for a moment: that
    is not to be the next round's.
    """
    now = time.monotonic()
    calm_since, until = now, now + _CALM_LIMIT_S
    while now - calm_since < _CALM_S and now < until:
        time.sleep(_NAP_S)
        woken = time.monotonic()
        if woken - now > _NAP_S + _LATE_S:
            calm_since = woken
        now = woken
    if now >= until:
        print(
            "this machine does not get calm: the next round may stand still longer than it should",
            file=sys.stderr,
        )


class SilentGuests(Exception):
    """Copies whose agents do not answer."""


class Agents:
    """Guest agents, asked past every tool that is measured."""

    def __init__(self, uri: str) -> None:
        libvirt.registerErrorHandler(lambda *_: None, None)
        self._connection = libvirt.open(uri)

    def when_all_answer(self, domains: Sequence[str]) -> Callable[[], float]:
        """Begins to ask now; the function waits and returns when the last one answered."""
        answered: dict[str, float] = {}
        threads = [threading.Thread(target=self._await, args=(domain, answered)) for domain in domains]
        for thread in threads:
            thread.start()

        def wait() -> float:
            for thread in threads:
                thread.join()
            silent = set(domains) - set(answered)
            if silent:
                raise SilentGuests(f"no agent answers in {', '.join(sorted(silent))}")
            return max(answered.values())

        return wait

    def run(self, domain: str, script: str) -> None:
        """Run a shell script in the guest, to its end."""
        words = {"path": "/bin/sh", "arg": ["-c", script], "capture-output": True}
        pid = self._ask(domain, "guest-exec", words)["pid"]
        while not (status := self._ask(domain, "guest-exec-status", {"pid": pid}))["exited"]:
            time.sleep(0.05)
        if status.get("exitcode"):
            raise SystemExit(f"{script} in {domain}: {base64.b64decode(status.get('err-data', ''))!r}")

    def _await(self, domain: str, answered: dict[str, float]) -> None:
        deadline = time.monotonic() + _AGENT_LIMIT_S
        while time.monotonic() < deadline:
            try:
                self._ask(domain, "guest-ping", {}, timeout_s=1)
            except libvirt.libvirtError:
                time.sleep(0.02)
            else:
                answered[domain] = time.monotonic()
                return

    def _ask(self, domain: str, command: str, words: Mapping[str, object], timeout_s: int = 30) -> Any:
        text = json.dumps({"execute": command, "arguments": words})
        found = self._connection.lookupByName(domain)
        answer: dict[str, int] = json.loads(libvirt_qemu.qemuAgentCommand(found, text, timeout_s, 0))[
            "return"
        ]
        return answer


def memory_used(domains: Sequence[str]) -> int:
    """Bytes of the domains' emulators; what several share is counted in shares."""
    total = 0
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            words = (process / "cmdline").read_bytes()
            if words.startswith(b"/usr/bin/qemu") and any(f"guest={d},".encode() in words for d in domains):
                rollup = (process / "smaps_rollup").read_text()
                total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        except OSError:
            continue
    return total * 1024


def disk_used(directory: Path) -> int:
    """Bytes allocated below a directory, but for images, databases and logs; a file with several names counts once."""
    total, counted = 0, set()
    for parent, names, files in os.walk(directory):
        if Path(parent) == directory:
            names[:] = [name for name in names if name not in ("images", "consoles")]
        for file in files:
            path = Path(parent, file)
            if not file.startswith("forkbed.db") and path.suffix != ".log":
                try:
                    status = path.lstat()
                except FileNotFoundError:
                    continue
                if status.st_ino not in counted:
                    counted.add(status.st_ino)
                    total += status.st_blocks * _SECTOR_BYTES
    return total
