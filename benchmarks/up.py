"""`up`: four micro machines until ready, against a script that starts the same four guests with plain QEMU.

The script (`plain_up.py`) does what somebody without Forkbed would: bridge, taps, dnsmasq, overlays on the same image,
the same guests (devices included) with the same seeds, all four at once; and waits for the same: ssh greets.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from time import monotonic

from benchmarks.labbed import Bench, bench_lab
from benchmarks.report import Figure, Report

ROUNDS = 5
TARGET = 1.15
NAMES = ("a", "b", "c", "d")
MANIFEST = """version: 1
system: four
networks:
  lan: {subnet: 10.77.0.0/24}
machines:
""" + "".join(f"  {name}: {{image: micro, memory: 128MiB}}\n" for name in NAMES)


def measure() -> Report:
    """Forkbed and plain QEMU in turns; the median of the ratios of neighbouring rounds."""
    ours, plain = [], []
    with bench_lab() as bench:
        manifest = bench.directory / "four.yaml"
        manifest.write_text(MANIFEST)
        _forkbed(bench, manifest)  # unmeasured: the image gets verified and the page cache warm
        bench.forkbed("down", "four", "--delete")
        for number in range(ROUNDS):
            ours.append(_forkbed(bench, manifest))
            guests = _guests(bench)
            bench.forkbed("down", "four")
            plain.append(_plain(bench, guests))
            bench.forkbed("down", "four", "--delete")
            print(
                f"round {number + 1}: forkbed {ours[-1]:.2f} s, plain QEMU {plain[-1]:.2f} s", file=sys.stderr
            )
    ratio = median(mine / theirs for mine, theirs in zip(ours, plain, strict=True))
    figure = Figure(
        "4 machines until ready",
        median(ours),
        "s",
        median(plain),
        ratio,
        f"ratio at most {TARGET}",
        ratio <= TARGET,
    )
    return Report("up", f"four micro machines until ready, {ROUNDS} rounds in turns", (figure,))


def _forkbed(bench: Bench, manifest: Path) -> float:
    """Seconds of the whole command, from the prompt to the prompt."""
    started = monotonic()
    bench.forkbed("up", manifest)
    return monotonic() - started


def _guests(bench: Bench) -> list[dict[str, str]]:
    """What the script needs of each guest: the same image, seed, MAC and address."""
    detail = json.loads(bench.forkbed("show", "four", "--json"))
    return [
        {
            "name": machine["name"],
            "image": f"/var/lib/forkbed/images/{machine['image_id']}.qcow2",
            "seed": f"/var/lib/forkbed/seeds/{machine['id']}.iso",
            "address": machine["addresses"][0][1],
            "mac": machine["addresses"][0][2],
        }
        for machine in detail["machines"]
    ]


def _plain(bench: Bench, guests: list[dict[str, str]]) -> float:
    """Seconds of the plain script, as it measured itself (without taking everything down)."""
    plan = bench.state_dir / "plain.json"
    plan.write_text(json.dumps(guests))
    script = Path(__file__).with_name("plain_up.py").resolve()
    done = bench.inside([sys.executable, str(script), "/var/lib/forkbed/plain.json"])
    plan.unlink()
    if done.returncode:
        raise SystemExit(f"the plain script failed:\n{done.stderr}")
    return float(done.stdout)
