"""`promote`: how long clients wait for a promotion, how well that is predicted, and what they lose: nothing.

A client has one numbered note after the other written by a machine of a pair, through its published port, during every
promotion; a note counts as acknowledged when the answer is there. The freeze is the longest time without one.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from benchmarks.labbed import Bench, bench_lab
from benchmarks.report import Figure, Report

PROMOTIONS = 10
FREEZE_LIMIT_S = 5.0  # beside the steps themselves
PREDICTION_LIMIT = 0.2
_NAME = "shop"
_SERVICE = "http://127.0.0.1:18290/cgi-bin/note"
_PATIENCE_S = 2.0
_PAUSE_S = 0.05
_MANIFEST = f"""version: 1
system: {_NAME}
networks:
  lan: {{subnet: 10.20.0.0/24, uplink: nat}}
machines:
  web:
    image: micro
    memory: 128MiB
    volumes: {{data: {{size: 64MiB, mount: /data}}}}
    publish: ["18290:80"]
    files:
      - path: /srv/www/cgi-bin/note
        mode: "0755"
        content: |
          #!/bin/sh
          set -e
          echo "$QUERY_STRING" >>/data/notes
          sync
          printf 'Content-Type: text/plain\\n\\n'; cat /data/version
    setup:
      - echo 0 >/data/version
      - {{run: "httpd -p 80 -h /srv/www", when: boot}}
    checks: [{{exec: "test -s /data/notes"}}]
  store:
    image: micro
    memory: 128MiB
"""
_STEPS = """version: 1
steps:
  - {name: layout, machine: store, run: "echo new >/root/layout; sync"}
  - {name: version, machine: web, run: "read number </data/version; echo $((number + 1)) >/data/version; sync"}
"""


@dataclass(slots=True)
class Client:
    """Writes notes until it is ended; `acknowledged` are those that it got an answer for, with when."""

    acknowledged: dict[str, float] = field(default_factory=dict)
    versions: list[int] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    _number: int = 0

    def write(self) -> None:
        while not self.ended.is_set():
            self._number += 1  # one that was not acknowledged is never asked for again
            try:
                with urllib.request.urlopen(f"{_SERVICE}?n{self._number}", timeout=_PATIENCE_S) as answer:
                    self.versions.append(int(answer.read()))
                self.acknowledged[f"n{self._number}"] = time.monotonic()
            except (OSError, ValueError):
                pass
            self.ended.wait(_PAUSE_S)

    def longest_gap(self, since: float) -> float:
        """Seconds without an acknowledgement since then."""
        times = [since, *(at for at in list(self.acknowledged.values()) if at > since), time.monotonic()]
        return max(after - before for before, after in pairwise(times))


@dataclass(slots=True)
class Taken:
    """What one promotion came to, in seconds."""

    gap: float  # as the client saw it
    freeze: float
    predicted: float
    steps: float
    checks: float

    @property
    def own(self) -> float:
        """What is ours of the wait."""
        return self.gap - self.steps - self.checks

    @property
    def error(self) -> float:
        return abs(self.predicted - self.freeze) / self.freeze


def measure() -> Report:
    """Some ten minutes under emulation."""
    with bench_lab() as bench:
        manifest, steps = bench.directory / "system.yaml", bench.directory / "steps.yaml"
        manifest.write_text(_MANIFEST)
        steps.write_text(_STEPS)
        bench.forkbed("up", manifest)
        with _client() as client:
            taken = []
            for number in range(PROMOTIONS):
                bench.forkbed("rehearse", _NAME, "--steps", steps, "--as", f"try-{number}")
                taken.append(_promote(bench, client, f"try-{number}"))
                print(f"promotion {number + 1}: {taken[-1]}", file=sys.stderr)
        lost = _lost(bench, client)
        began = time.monotonic()
        bench.forkbed("revert", _NAME, "--accept-loss")
        revert = time.monotonic() - began
    return Report(
        "promote", f"{PROMOTIONS} promotions of a pair of micro machines", _figures(taken, lost, revert)
    )


@contextmanager
def _client() -> Iterator[Client]:
    client = Client()
    thread = threading.Thread(target=client.write, daemon=True)
    thread.start()
    try:
        yield client
    finally:
        client.ended.set()
        thread.join(30)


def _promote(bench: Bench, client: Client, name: str) -> Taken:
    """One promotion, until the client has an answer of the new version; the generation before it goes."""
    began, version = time.monotonic(), client.versions[-1] if client.versions else 0
    result = json.loads(bench.forkbed("promote", name, "--json"))["result"]
    while client.versions[-1] == version:
        time.sleep(_PAUSE_S)
    gap = client.longest_gap(began)
    spent = _journal(bench)
    bench.forkbed("discard", name)
    for generation in json.loads(bench.forkbed("generations", _NAME, "--json"))[2:]:
        bench.forkbed("discard", generation["name"])
    return Taken(gap, result["freeze_s"], result["predicted_s"], spent["step"], spent["check"])


def _journal(bench: Bench) -> dict[str, float]:
    """What the steps and checks of the newest promotion took."""
    shown = json.loads(bench.forkbed("operations", "list", "--json"))
    newest = next(operation for operation in shown if operation["kind"] == "promote")
    journal = json.loads(bench.forkbed("operations", "show", newest["id"], "--json"))["journal"]
    return {
        verb: sum(entry["ended_at"] - entry["started_at"] for entry in journal if entry["verb"] == verb)
        for verb in ("step", "check")
    }


def _lost(bench: Bench, client: Client) -> int:
    """Notes that were acknowledged and are not there."""
    there = bench.forkbed("exec", f"{_NAME}/web", "--", "cat", "/data/notes").split()
    return len(set(client.acknowledged) - set(there))


def _figures(taken: list[Taken], lost: int, revert: float) -> tuple[Figure, ...]:
    own, error = median(each.own for each in taken), median(each.error for each in taken)
    return (
        Figure("wait of a client", median(each.gap for each in taken), "s"),
        Figure(
            "of it, all but steps and checks",
            own,
            "s",
            target=f"at most {FREEZE_LIMIT_S:g} s",
            met=own <= FREEZE_LIMIT_S,
        ),
        Figure(
            "error of the predicted freeze",
            error,
            "",
            target=f"at most {PREDICTION_LIMIT:g}",
            met=error <= PREDICTION_LIMIT,
        ),
        Figure("acknowledged notes lost", lost, "", target="none", met=lost == 0),
        Figure("revert", revert, "s"),
    )
