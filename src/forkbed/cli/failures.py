"""How a failed command says so: what, why, and what to do, on standard error."""

from __future__ import annotations

import json
import sys

from forkbed.base.errors import OperationalError
from forkbed.cli.output import printable, styled


def tell(error: OperationalError, *, as_json: bool) -> int:
    """Print the error, for people or as a problem document; returns the exit status."""
    if as_json:
        from forkbed.api.problems import problem_json

        print(json.dumps(problem_json(error), ensure_ascii=False), file=sys.stderr)
        return error.kind.exit_status
    subject = f" {error.subject}:" if error.subject else ""
    lines = [f"{styled('forkbed:', 'red', 2)}{subject} {error.brief}"]
    lines += [f"  {printable(line)}" for detail in error.details for line in detail.split("\n")]
    if error.remedy:
        lines.append(f"{styled('what to do:', 'bold', 2)} {error.remedy}")
    print("\n".join(lines), file=sys.stderr)
    return error.kind.exit_status
