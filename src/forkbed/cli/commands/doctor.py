"""`forkbed doctor`: prove what this host can do."""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict
from typing import Annotated

import cyclopts

from forkbed.base.errors import Kind
from forkbed.cli.output import styled
from forkbed.config.log import configure_log
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
    configure_log(os.environ)
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
    """Keeps one line on a terminal's standard error that says which slow checks are still running."""

    def __init__(self, checks: tuple[Check, ...]) -> None:
        self._slow = {check.name: check.slow for check in checks if check.slow}
        self._lock = threading.Lock()
        self._shown = sys.stderr.isatty()

    def __enter__(self) -> _Waiting:
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self._slow.clear()
        self._show()

    def done(self, finding: Finding) -> None:
        """Strike a check from the line."""
        with self._lock:
            if self._slow.pop(finding.check, None):
                self._show()

    def _show(self) -> None:
        if self._shown:
            words = f"{'; '.join(self._slow.values())} …" if self._slow else ""
            print(f"\r\x1b[K{words}", end="", file=sys.stderr, flush=True)


def _show(findings: tuple[Finding, ...]) -> None:
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        verdict = styled(f"{finding.verdict:<5}", _COLOURS[finding.verdict])
        print(f"{verdict} {finding.check:<{width}}  {finding.evidence}")
        if finding.remedy:
            print(f"{'':<6}{'':<{width}}  {styled('what to do:', 'bold')} {finding.remedy}")
