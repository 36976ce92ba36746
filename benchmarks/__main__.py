"""Run all benchmarks, or the named ones: `python -m benchmarks [NAME…]`."""

from __future__ import annotations

import sys

from benchmarks import cli, diff, fork, promote, up
from benchmarks.report import publish

MEASURES = {
    "up": up.measure,
    "cli": cli.measure,
    "fork": fork.measure,
    "diff": diff.measure,
    "promote": promote.measure,
}


def main(names: list[str]) -> int:
    """Run them and publish what they found; 1 if a target was missed."""
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(MEASURES)}", file=sys.stderr)
        return 2
    met = [publish(MEASURES[name]()) for name in names or MEASURES]
    return 0 if all(met) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
