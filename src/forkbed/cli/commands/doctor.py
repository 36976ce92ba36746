"""`forkbed doctor`: prove what this host can do."""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict
from typing import Annotated

import cyclopts
from rich.console import Console
from rich.text import Text

from forkbed.base.errors import Kind
from forkbed.config.settings import load_settings
from forkbed.drivers.doctor.checks import all_checks
from forkbed.drivers.doctor.findings import Check, Finding, Verdict, examine

app = cyclopts.App(name="doctor", help="Prove what this host can do, and say what to do about the rest.")
_COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@app.default
def doctor(
    *, as_json: Annotated[bool, cyclopts.Parameter(name="--json", help="For programs.")] = False
) -> int:
    """Prove what this host can do: boot a guest, reach libvirt, make namespaces and filters, and more.

    Each finding comes with its evidence and, if something is wrong, what to do. The exit status is 8 if something
    keeps Forkbed from working. The proof guest takes a few seconds the first time after the host has booted.

    Example: `forkbed doctor --json`
    """
    checks = all_checks(load_settings(os.environ))
    with _Waiting(checks) as waiting:
        findings = examine(checks, waiting.done)
    failed = any(finding.verdict is Verdict.FAIL for finding in findings)
    if as_json:
        print(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        _show(findings)
    return Kind.FAULT.exit_status if failed else 0


class _Waiting:
    """Says on a terminal's standard error which slow checks are still running."""

    def __init__(self, checks: tuple[Check, ...]) -> None:
        self._slow = {check.name: check.slow for check in checks if check.slow}
        self._lock = threading.Lock()
        self._status = Console(stderr=True).status(self._words()) if sys.stderr.isatty() else None

    def __enter__(self) -> _Waiting:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def done(self, finding: Finding) -> None:
        with self._lock:
            self._slow.pop(finding.check, None)
            if self._status:
                self._status.update(self._words())

    def _words(self) -> str:
        return "; ".join(self._slow.values()) or "finishing"


def _show(findings: tuple[Finding, ...]) -> None:
    console = Console(soft_wrap=True)
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        line = Text(f"{finding.verdict:<5}", style=_COLOURS[finding.verdict])
        console.print(line, Text(f"{finding.check:<{width}}  {finding.evidence}"))
        if finding.remedy:
            console.print(Text(f"{'':<6}{'':<{width}}  → {finding.remedy}", style="bold"))
