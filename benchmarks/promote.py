"""`promote`: how long clients of boss-ops wait for its upgrade, how well that is predicted, and that they lose nothing.

Clients have one experiment after the other written, a row of PostgreSQL and a file on NFS each, while the system is
promoted, in some rounds in vain first. An experiment counts as acknowledged when the answer is there; the wait is the
longest time in which none of the clients got one. There are several of them, which lose patience at different times,
because a single one would mostly measure when it happened to try again.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from statistics import median
from urllib.error import HTTPError

from benchmarks.labbed import FORKBED, Bench, bench_lab
from benchmarks.report import Figure, Report

PROMOTIONS = 10
IN_VAIN_EVERY = 4
FREEZE_LIMIT_S = 5.0  # beside the steps themselves
PREDICTION_LIMIT = 0.2
_NAME, _REHEARSAL = "boss-ops", "projects"
_EXAMPLE = Path(__file__).parent.parent / "examples" / _NAME
_SERVICE = "http://127.0.0.1:8080/experiments"
_CLIENTS = 4
_PATIENCE_S = (1.5, 3.0)
_PAUSE_S = 0.4
_LOOK_AGAIN_S = 0.05


@dataclass(slots=True)
class Clients:
    """Write experiments until they are ended; `acknowledged` are the ids that they were told, with when."""

    acknowledged: dict[int, float] = field(default_factory=dict)
    upgraded: bool = False  # whether the newest answer was the new version's
    ended: threading.Event = field(default_factory=threading.Event)

    def write(self) -> None:
        """What one client does."""
        chance = random.Random()  # not the same for all: they would lose patience together
        body = json.dumps({"name": "steady", "owner": "bench"}).encode()
        while not self.ended.is_set():
            patience_s = chance.uniform(*_PATIENCE_S)
            try:
                with urllib.request.urlopen(_SERVICE, data=body, timeout=patience_s) as answer:
                    experiment = json.load(answer)
                self.acknowledged[experiment["id"]] = time.monotonic()
                self.upgraded = "project" in experiment
            except (OSError, HTTPException, ValueError):
                pass  # one that was not acknowledged is never asked for again
            self.ended.wait(_PAUSE_S)

    def longest_gap(self, since: float) -> float:
        """Seconds without an acknowledgement since then."""
        times = [since, *(at for at in list(self.acknowledged.values()) if at > since), time.monotonic()]
        return max(after - before for before, after in pairwise(times))


@dataclass(slots=True)
class Taken:
    """What one promotion came to, in seconds."""

    gap: float  # as the clients saw it
    freeze: float
    predicted: float
    steps: float
    checks: float

    @property
    def own(self) -> float:
        """All of the wait but the steps themselves."""
        return self.gap - self.steps

    @property
    def error(self) -> float:
        return abs(self.predicted - self.freeze) / self.freeze


def measure() -> Report:
    """Some eight minutes under emulation."""
    with bench_lab() as bench:
        for image in ("ops", "boss"):
            bench.forkbed("image", "build", _EXAMPLE / f"{image}.yaml", quiet=False)
        bench.forkbed("up", _EXAMPLE / "system.yaml", quiet=False)
        bench.forkbed("rehearse", _NAME, "--steps", _EXAMPLE / "upgrade.yaml", "--as", _REHEARSAL)
        taken, reverts, lost = [], [], 0
        for number in range(PROMOTIONS):
            with _clients() as clients:
                if number % IN_VAIN_EVERY == 0:
                    _promote_in_vain(bench)
                taken.append(_promote(bench, clients))
            lost += _lost(clients)
            print(f"promotion {number + 1}: {taken[-1]}", file=sys.stderr)
            reverts.append(_revert(bench))
    return Report("promote", f"{PROMOTIONS} promotions of boss-ops", _figures(taken, lost, median(reverts)))


@contextmanager
def _clients() -> Iterator[Clients]:
    clients = Clients()
    threads = [threading.Thread(target=clients.write, daemon=True) for _ in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        clients.ended.set()
        for thread in threads:
            thread.join(30)


def _promote_in_vain(bench: Bench) -> None:
    """An experiment without a file makes a check fail."""
    _in_database(bench, "INSERT INTO experiments (id, name, owner) VALUES (0, 'by-hand', 'nobody')")
    argv = [str(FORKBED), "--lab", bench.lab.name, "promote", _REHEARSAL, "--discard-attempt"]
    if subprocess.run(argv, check=False, capture_output=True).returncode == 0:
        raise SystemExit("a promotion whose check fails was done")
    _in_database(bench, "DELETE FROM experiments WHERE id = 0")


def _in_database(bench: Bench, statement: str) -> None:
    words = (
        "runuser",
        "--login",
        "postgres",
        "--command",
        f'psql --quiet --command "{statement}" experiments',
    )
    bench.forkbed("exec", f"{_NAME}/boss", "--", *words)


def _promote(bench: Bench, clients: Clients) -> Taken:
    """One promotion, until a client has an answer of the new version."""
    began = time.monotonic()
    result = json.loads(bench.forkbed("promote", _REHEARSAL, "--json"))["result"]
    while not clients.upgraded:
        time.sleep(_LOOK_AGAIN_S)
    gap = clients.longest_gap(began)
    spent = _journal(bench)
    return Taken(gap, result["freeze_s"], result["predicted_s"], spent["step"], spent["check"])


def _revert(bench: Bench) -> float:
    """Seconds that it takes; the generation that it left goes."""
    began = time.monotonic()
    bench.forkbed("revert", _NAME, "--accept-loss")
    took = time.monotonic() - began
    for generation in json.loads(bench.forkbed("generations", _NAME, "--json"))[1:]:
        bench.forkbed("discard", generation["name"])
    return took


def _journal(bench: Bench) -> dict[str, float]:
    """What the steps and checks of the newest promotion took, those that were side by side together."""
    shown = json.loads(bench.forkbed("operations", "list", "--json"))
    newest = next(operation for operation in shown if operation["kind"] == "promote")
    journal = json.loads(bench.forkbed("operations", "show", newest["id"], "--json"))["journal"]
    spent = {}
    for verb in ("step", "check"):
        entries = [entry for entry in journal if entry["verb"] == verb]
        spent[verb] = max(e["ended_at"] for e in entries) - min(e["started_at"] for e in entries)
    return spent


def _lost(clients: Clients) -> int:
    """Experiments that were acknowledged and are not there, with row and file."""
    with urllib.request.urlopen(_SERVICE, timeout=30) as answer:
        there = {experiment["id"] for experiment in json.load(answer)}
    try:
        with urllib.request.urlopen(f"{_SERVICE}/files", timeout=30) as answer:
            without_file = json.load(answer)["without a file"]
    except HTTPError as error:
        without_file = json.load(error)["without a file"]
    if without_file:
        print(f"without a file: {without_file}", file=sys.stderr)
    return len(clients.acknowledged.keys() - (there - set(without_file)))


def _figures(taken: list[Taken], lost: int, revert: float) -> tuple[Figure, ...]:
    own, error = median(each.own for each in taken), median(each.error for each in taken)
    return (
        Figure("wait of the clients", median(each.gap for each in taken), "s"),
        Figure(
            "of it, all but the steps",
            own,
            "s",
            target=f"at most {FREEZE_LIMIT_S:g} s",
            met=own <= FREEZE_LIMIT_S,
        ),
        Figure("of that, the manifest's checks", median(each.checks for each in taken), "s"),
        Figure(
            "error of the predicted freeze",
            error,
            "",
            target=f"at most {PREDICTION_LIMIT:g}",
            met=error <= PREDICTION_LIMIT,
        ),
        Figure("acknowledged experiments lost", lost, "", target="none", met=lost == 0),
        Figure("revert", revert, "s"),
    )
