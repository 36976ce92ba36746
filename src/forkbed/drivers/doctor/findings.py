"""What the doctor finds, and how the checks are run: side by side, each with its own limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum

from forkbed.base.errors import OperationalError

_AT_ONCE = 4  # most of the time is spent waiting; the proof guest is the only one that computes


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"  # Forkbed works; something will be slow, unsafe or missing
    FAIL = "fail"  # Forkbed does not work until this is put right


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: what was seen (`evidence`) and what to do about it ("" if nothing)."""

    check: str
    verdict: Verdict
    evidence: str
    remedy: str = ""
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Check:
    """A named question to the host. `examine` answers it, or raises OperationalError, which is a failure."""

    name: str
    examine: Callable[[], Finding]
    slow: str = ""
    """What it does, for people who wait; "" if it answers at once."""


def ok(check: str, evidence: str) -> Finding:
    """A finding that needs nothing."""
    return Finding(check, Verdict.OK, evidence)


def warn(check: str, evidence: str, remedy: str) -> Finding:
    """A finding that somebody should know about."""
    return Finding(check, Verdict.WARN, evidence, remedy)


def fail(check: str, evidence: str, remedy: str) -> Finding:
    """A finding that keeps Forkbed from working."""
    return Finding(check, Verdict.FAIL, evidence, remedy)


def examine(checks: Sequence[Check], done: Callable[[Finding], None] = lambda _: None) -> tuple[Finding, ...]:
    """Run the checks and return their findings in the same order; `done` hears of each as soon as it is there."""

    def one(check: Check) -> Finding:
        started = time.monotonic()
        try:
            finding = check.examine()
        except OperationalError as error:
            finding = fail(check.name, str(error), error.remedy)
        finding = replace(finding, took_s=round(time.monotonic() - started, 3))
        done(finding)
        return finding

    with ThreadPoolExecutor(_AT_ONCE, "doctor") as pool:
        return tuple(pool.map(one, checks))
