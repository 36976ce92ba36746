"""A lab of its own for a benchmark, with `forkbed serve` and the micro image in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from forkbed import lab as labs
from forkbed.config.settings import load_settings

PREFIX = "bench-"
FORKBED = Path(sys.executable).with_name("forkbed")
RECIPE = "version: 1\nname: micro\nbase: micro\n"


@dataclass(frozen=True, slots=True)
class Bench:
    """A lab that serves; `directory` is for scratch files."""

    lab: labs.Lab
    directory: Path

    @property
    def state_dir(self) -> Path:
        """The lab's /var/lib/forkbed, seen from outside."""
        return self.lab.paths.state

    def forkbed(self, *arguments: str | Path, quiet: bool = True) -> str:
        """Run `forkbed` against the lab's server; its standard output. Fails loudly."""
        argv = [str(FORKBED), "--lab", self.lab.name, *map(str, arguments)]
        done = subprocess.run(
            argv, check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE if quiet else None, text=True
        )
        if done.returncode:
            raise SystemExit(
                f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr or ''}"
            )
        return done.stdout

    def inside(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in the lab."""
        return subprocess.run(
            list(map(str, self.lab.command(argv))), check=False, capture_output=True, text=True
        )


@contextmanager
def bench_lab() -> Iterator[Bench]:
    """A lab that is gone afterwards, also when this process is killed."""
    lab_dir = load_settings(os.environ).lab_dir
    labs.sweep(lab_dir, PREFIX)
    with TemporaryDirectory(prefix="forkbed-bench-") as directory, labs.temporary(lab_dir, PREFIX) as lab:
        lab.start_serve()
        bench = Bench(lab, Path(directory))
        recipe = bench.directory / "micro.yaml"
        recipe.write_text(RECIPE)
        bench.forkbed("image", "build", recipe)
        yield bench
