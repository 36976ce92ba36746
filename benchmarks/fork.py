"""`fork`: running machines forked, and then the same guests with a script of plain virsh and qemu-img commands.

A client polls a UDP service in each guest every 5 ms from the system's network; the longest time without an answer,
from the command until a second after the copies' agents answer, is the freeze as a client sees it. The same look at
the same guests while nobody forks is given beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from uuid import uuid4

from benchmarks.forked import (
    SERVICE,
    Agents,
    SilentGuests,
    System,
    await_calm,
    client,
    disk_used,
    largest_gap,
    memory_used,
    prepare,
    system,
)
from benchmarks.labbed import Bench, bench_lab
from benchmarks.plain_fork import copy_name
from benchmarks.report import Figure, Report
from forkbed.api.bodies import ForkResult
from forkbed.api.codec import decode

_SIZES = {1: 2, 2: 9, 4: 2, 8: 1}  # machines: rounds; half as many while one writes
_READY_ROUNDS = 9  # of 2 machines, for which there are targets
_LARGE_ROUNDS = 3
_LARGE_PAUSE_S = 30.0  # a hypervisor below takes back the 9 GiB that a round frees, in pieces, for so long
_FORKS = (1, 2, 4, 8)
_AFTERWARDS_S = 1.0
_FIRST_KIB, _MORE_MIB = 64, 16
# In this order: the plain script's snapshots are not known to Forkbed.
_OURS, _LIVE, _TOGETHER = "forkbed", "plain, each live", "plain, one instant"
_PLAIN = "/var/lib/forkbed/plain"  # below it a directory for each round
_MIB = 1024**2

FREEZE_LIMIT_S = 0.1  # for 2 idle machines of 256 MiB
LARGE_FREEZE_LIMIT_S = 0.3  # for one of 6 GiB with 4 GiB touched
FREEZE_RATIO = 1 / 5
SKEW_LIMIT_S = 0.03  # for 4
READY_LIMIT_S = 2.0  # for 2


@dataclass(slots=True)
class Taken:
    """What one fork came to. Times in seconds, sizes in bytes."""

    freeze: float  # the largest gap
    quiet: float  # the same while nobody forks
    skew: float
    ready: float
    stood: float = 0.0  # the longest that a machine stood still, by the record
    disk: list[int] = field(default_factory=list)  # after the fork, after 64 KiB, after 16 MiB more
    memory: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        freeze, quiet, stood, skew = (
            f"{each * 1000:.0f} ms" for each in (self.freeze, self.quiet, self.stood, self.skew)
        )
        return f"largest gap {freeze} ({quiet} at rest, stood still {stood}), skew {skew}, ready {self.ready:.2f} s"


def measure() -> Report:
    """All of it, some ten minutes."""
    figures: list[Figure] = []
    with bench_lab() as bench:
        prepare(bench)
        agents = Agents(bench.lab.libvirt_uri)
        for machines, rounds in _SIZES.items():
            figures += _sizes(bench, agents, machines, rounds)
        figures += _readiness(bench, agents)
        figures += _large(bench, agents)
        figures += _many(bench, agents)
    return Report("fork", "forks of running machines, medians; plain: virsh and qemu-img", tuple(figures))


def _sizes(bench: Bench, agents: Agents, machines: int, rounds: int) -> Iterator[Figure]:
    """Idle machines of 256 MiB, and the same with one that writes steadily."""
    with system(bench, f"s{machines}", machines) as made:
        idle, writing = Sides(), Sides()
        for side in (_OURS, _LIVE):
            idle.take(made, agents, side, rounds)
            with _writing(made):
                writing.take(made, agents, side, max(1, rounds // 2))
        if machines > 1:
            idle.take(made, agents, _TOGETHER, rounds)
    yield from _figures(f"{machines} x 256 MiB", idle, targets=machines)
    yield from _figures(f"{machines} x 256 MiB, one writes", writing)


def _readiness(bench: Bench, agents: Agents) -> Iterator[Figure]:
    """When the agents of 2 machines' copies answer while no client asks: in turns, since a host's speed drifts.

    The plain scripts have a system of their own, which is on their layers then.
    """
    sides = Sides()
    with system(bench, "ready", 2) as ours, system(bench, "plain", 2) as plain:
        for _ in range(_READY_ROUNDS):
            for side, made in ((_OURS, ours), (_TOGETHER, plain), (_LIVE, plain)):
                sides.take(made, agents, side, 1, watched=False)
    what = "2 x 256 MiB: ready, no client"
    yield sides.figure(
        f"{what} ({_TOGETHER})",
        lambda t: t.ready,
        plain=_TOGETHER,
        limit=READY_LIMIT_S,
        ratio_limit=1.0,
    )
    yield sides.figure(f"{what} ({_LIVE})", lambda t: t.ready)


@contextmanager
def _writing(made: System) -> Iterator[None]:
    """The first machine writes to its disk meanwhile."""
    machine = f"{made.name}/m0"
    write = f"echo $$ >/run/steady; exec {SERVICE} write /root/steady"
    start = f"setsid sh -c '{write}' >/dev/null 2>&1 </dev/null &"
    made.bench.forkbed("exec", machine, "--", "sh", "-c", start)
    time.sleep(_AFTERWARDS_S)
    yield
    made.bench.forkbed("exec", machine, "--", "sh", "-c", "kill $(cat /run/steady)")


def _large(bench: Bench, agents: Agents) -> Iterator[Figure]:
    """One machine of 6 GiB whose memory is full to 4 GiB."""
    with system(bench, "large", 1, memory="6GiB", held_mib=4096) as made:
        sides = Sides()
        for side in (_OURS, _LIVE):
            for _ in range(_LARGE_ROUNDS):
                time.sleep(_LARGE_PAUSE_S)
                sides.take(made, agents, side, 1)
    what = "6 GiB, 4 GiB touched"
    yield _freeze(what, sides, LARGE_FREEZE_LIMIT_S, _LIVE)
    yield Figure(f"{what}: stood still, by the record", median(t.stood for t in sides.taken[_OURS]), "s")
    yield sides.figure(f"{what}: ready", lambda t: t.ready)


def _many(bench: Bench, agents: Agents) -> Iterator[Figure]:
    """Several forks of one machine, made at once."""
    with system(bench, "many", 1) as made:
        counts = {count: Sides() for count in _FORKS}
        for side in (_OURS, _LIVE):
            for count, sides in counts.items():
                sides.take(made, agents, side, 1, count)
    for count, sides in counts.items():
        what = f"{count} forks of 256 MiB"
        yield sides.figure(f"{what}: all ready", lambda t: t.ready)
        yield sides.figure(f"{what}: memory of each", _used("memory", 0, count), "MiB")


def _figures(what: str, sides: Sides, *, targets: int = 0) -> Iterator[Figure]:
    """The figures of one size; `targets` is how many machines it has, if targets are set for it."""
    one_instant = _TOGETHER in sides.taken
    limit = FREEZE_LIMIT_S if targets == 2 else None
    yield _freeze(what, sides, limit, _TOGETHER if one_instant else _LIVE)
    if one_instant:  # the live script is no like for like: it keeps each machine at an instant of its own
        yield sides.figure(f"{what}: freeze (plain: each live)", lambda t: t.freeze)
    yield Figure(f"{what}: stood still, by the record", median(t.stood for t in sides.taken[_OURS]), "s")
    yield Figure(f"{what}: largest gap without fork", median(t.quiet for t in sides.taken[_OURS]), "s")
    yield sides.figure(
        f"{what}: skew (plain: each live)", lambda t: t.skew, limit=SKEW_LIMIT_S if targets == 4 else None
    )
    yield sides.figure(f"{what}: ready", lambda t: t.ready)
    for stage, words in enumerate(("new", f"{_FIRST_KIB} KiB written", f"{_MORE_MIB} MiB more written")):
        for sort in ("disk", "memory"):
            yield sides.figure(f"{what}: {sort} of the fork, {words}", _used(sort, stage), "MiB")


def _used(sort: str, stage: int, forks: int = 1) -> Callable[[Taken], float]:
    """Mebibytes of disk or memory for one of the forks."""

    def value(taken: Taken) -> float:
        return float(getattr(taken, sort)[stage]) / forks / _MIB

    return value


def _freeze(what: str, sides: Sides, limit: float | None, plain: str) -> Figure:
    ratio_limit = FREEZE_RATIO if limit else None
    words = f"{what}: freeze ({plain})"
    return sides.figure(words, lambda t: t.freeze, plain=plain, limit=limit, ratio_limit=ratio_limit)


@dataclass(slots=True)
class Sides:
    """What the forks came to, by who made them."""

    taken: dict[str, list[Taken]] = field(default_factory=dict)

    def take(
        self, made: System, agents: Agents, side: str, rounds: int, count: int = 1, *, watched: bool = True
    ) -> None:
        """Fork that often. A round in which copies of a plain script do not answer, as some of many, is left out."""
        look = Look(made, agents, count, watched)
        for _ in range(rounds):
            try:
                taken = _forkbed(look) if side == _OURS else _plain(look, together=side == _TOGETHER)
            except SilentGuests as error:
                if side == _OURS:
                    raise SystemExit(f"{made.name}: {error}") from error
                print(f"{made.name}, {side}, {count} forks: {error}; left out", file=sys.stderr)
                continue
            self.taken.setdefault(side, []).append(taken)
            print(f"{made.name}, {side}, {count} forks: {taken}", file=sys.stderr)

    def figure(
        self,
        what: str,
        value: Callable[[Taken], float],
        unit: str = "s",
        *,
        plain: str = _LIVE,
        limit: float | None = None,
        ratio_limit: float | None = None,
    ) -> Figure:
        """Medians of ours and of a plain script; the limits are the target."""
        mine = median(map(value, self.taken[_OURS]))
        other = median(map(value, self.taken[plain])) if plain in self.taken else None
        ratio = mine / other if other else None
        wanted, met = [], []
        if limit is not None:
            wanted.append(f"at most {limit:g} {unit}")
            met.append(mine <= limit)
        if ratio_limit is not None:
            wanted.append(f"ratio at most {ratio_limit:g}")
            met.append(ratio is not None and ratio <= ratio_limit)
        return Figure(what, mine, unit, other, ratio, ", ".join(wanted), all(met) if met else None)


@dataclass(frozen=True, slots=True)
class Look:
    """What is forked, how often at once, and whether a client asks meanwhile. Its load delays the forks a little."""

    made: System
    agents: Agents
    count: int
    watched: bool


def _forkbed(look: Look) -> Taken:
    """`forkbed fork` and `forkbed discard`."""
    made, count = look.made, look.count
    names = ["try"] if count == 1 else [f"try-{number + 1}" for number in range(count)]
    copies = [made.domain_of(name, number) for name in names for number in range(len(made.domains))]
    told: dict[str, object] = {}

    @contextmanager
    def fork() -> Iterator[None]:
        answer = made.bench.forkbed("fork", made.name, "try", "--count", str(count), "--json")
        told.update(json.loads(answer))
        try:
            yield
        finally:
            for name in names:
                made.bench.forkbed("discard", name)

    taken = _take(look, copies, fork)
    result = decode(ForkResult, told["result"])
    taken.skew = result.skew_s
    taken.stood = max(machine.frozen_s or 0.0 for machine in result.machines)
    return taken


def _plain(look: Look, *, together: bool) -> Taken:
    """The plain script; its skew is that of the gaps that the client saw."""
    made = look.made
    copies = [copy_name(domain, number) for domain in made.domains for number in range(look.count)]
    plan = made.bench.state_dir / "plain.json"
    directory = f"{_PLAIN}/{uuid4()}"
    wanted = {"machines": made.domains, "together": together, "copies": look.count, "directory": directory}
    plan.write_text(json.dumps(wanted))
    argv = [sys.executable, "/var/lib/forkbed/plain_fork.py", "/var/lib/forkbed/plain.json"]

    @contextmanager
    def fork() -> Iterator[None]:
        script = subprocess.Popen(
            made.bench.lab.command(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert script.stdout
        if script.stdout.readline() != "forked\n":
            raise SystemExit(f"the plain script ended with {script.wait()}")
        try:
            yield
        finally:
            script.communicate("\n", timeout=300)

    return _take(look, copies, fork)


def _take(look: Look, copies: Sequence[str], fork: Callable[[], AbstractContextManager[None]]) -> Taken:
    """Look at a fork from outside."""
    made, agents = look.made, look.agents
    await_calm()
    before = disk_used(made.bench.state_dir)
    nobody: dict[str, list[float]] = {}
    with client(made) if look.watched else nullcontext(nobody) as answers:
        time.sleep(_AFTERWARDS_S)
        began = time.monotonic()
        await_answers = agents.when_all_answer(copies)
        with fork():
            ready = await_answers()
            time.sleep(_AFTERWARDS_S)
            until = time.monotonic()
            disk, memory = [disk_used(made.bench.state_dir) - before], [memory_used(copies)]
            for size in (f"bs=1k count={_FIRST_KIB}", f"bs=1M count={_MORE_MIB}") if look.watched else ():
                agents.run(copies[0], f"dd if=/dev/urandom of=/root/new.$$ conv=fsync {size}")
                disk.append(disk_used(made.bench.state_dir) - before)
                memory.append(memory_used(copies))
    gaps = [largest_gap(times, began, until) for times in answers.values()] or [(0.0, 0.0)]
    quiet = [largest_gap(times, began - _AFTERWARDS_S + 0.1, began)[0] for times in answers.values()]
    return Taken(
        freeze=max(gap for gap, _ in gaps),
        quiet=max(quiet, default=0.0),
        skew=max(at for _, at in gaps) - min(at for _, at in gaps),
        ready=ready - began,
        disk=disk,
        memory=memory,
    )
