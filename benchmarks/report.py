"""What a benchmark found: a table for people and `build/bench/NAME.json` for programs."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path("build/bench")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; `plain` is the compared tool's and `ratio` the value over it, where there is one.

    `target` says in words what is wanted and `met` whether it is; None where nothing is promised.
    """

    what: str
    value: float
    unit: str
    plain: float | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class Report:
    name: str
    about: str
    figures: tuple[Figure, ...]


def publish(report: Report) -> bool:
    """Write and print the report; returns whether every target was met."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {
        "name": report.name,
        "about": report.about,
        "figures": [asdict(figure) for figure in report.figures],
        "machine": _machine(),
    }
    (RESULTS / f"{report.name}.json").write_text(json.dumps(content, indent=1) + "\n")
    table = Table(title=f"{report.name}: {report.about}", title_justify="left")
    for column in ("what", "value", "plain tool", "ratio", "target", "met"):
        table.add_column(column)
    for figure in report.figures:
        table.add_row(
            figure.what,
            f"{figure.value:.3g} {figure.unit}",
            "" if figure.plain is None else f"{figure.plain:.3g} {figure.unit}",
            "" if figure.ratio is None else f"{figure.ratio:.2f}",
            figure.target,
            {None: "", True: "yes", False: "NO"}[figure.met],
        )
    Console(width=160).print(table)
    return all(figure.met is not False for figure in report.figures)


def _machine() -> dict[str, object]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
    }
