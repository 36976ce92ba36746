"""`cli`: what a person waits for at the prompt: `list`, and a manifest of 1,000 machines checked and planned."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from statistics import median
from time import monotonic

from benchmarks.labbed import bench_lab
from benchmarks.manifests import large_manifest
from benchmarks.report import Figure, Report

ROUNDS = 9
LIST_LIMIT_S = 0.4
PLAN_LIMIT_S = 1.0
MACHINES = 1000


def measure() -> Report:
    """Wall time of whole commands, from the prompt to the prompt."""
    with bench_lab() as bench:
        manifest = bench.directory / "large.yaml"
        manifest.write_text(large_manifest(MACHINES, image="micro"))
        uri = bench.lab.libvirt_uri
        listed = _timed(lambda: bench.forkbed("list"))
        virsh = _timed(lambda: subprocess.run(["virsh", "-c", uri, "list"], check=True, capture_output=True))
        planned = _timed(lambda: bench.forkbed("plan", manifest))
    return Report(
        "cli",
        f"whole commands, median of {ROUNDS}",
        (
            Figure(
                "list",
                listed,
                "s",
                virsh,
                listed / virsh,
                f"under {LIST_LIMIT_S} s (plain: virsh list)",
                listed < LIST_LIMIT_S,
            ),
            Figure(
                f"plan of {MACHINES} machines",
                planned,
                "s",
                target=f"under {PLAN_LIMIT_S:g} s",
                met=planned < PLAN_LIMIT_S,
            ),
        ),
    )


def _timed(command: Callable[[], object]) -> float:
    """The median of seconds over the rounds, after one that does not count."""
    command()
    times = []
    for _ in range(ROUNDS):
        started = monotonic()
        command()
        times.append(monotonic() - started)
    return median(times)
