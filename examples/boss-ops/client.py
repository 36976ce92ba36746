#!/usr/bin/python3
"""A client that keeps writing: asks the example's service for one experiment after the other, until it is told to end.

usage: client.py URL [LOG]          SIGTERM or SIGINT ends it; then it says how it went
       client.py --count URL LOG    how many of those that it was told of are there

LOG gets a line of JSON for each: its number, when it was asked for and answered (seconds since the epoch), and the
id that the service gave it, or what went wrong.
"""

import json
import signal
import sys
import threading
import time
import urllib.request
from http.client import HTTPException

PAUSE_S = 0.2
PATIENCE_S = 90  # TCP asks again after pauses that double: it notices a freeze's end late


def ask(url, number):
    """What came of one experiment."""
    asked = time.time()
    body = json.dumps({"name": f"steady-{number}", "owner": "client"}).encode()
    try:
        with urllib.request.urlopen(url, data=body, timeout=PATIENCE_S) as answer:
            outcome = {"id": json.load(answer)["id"]}
    except (OSError, HTTPException, ValueError, KeyError) as error:
        outcome = {"problem": str(error)}
    return {"number": number, "asked": asked, "answered": time.time(), **outcome}


def summary(answers):
    """How it went, in a sentence."""
    refused = [answer["problem"] for answer in answers if "problem" in answer]
    longest = max((answer["answered"] - answer["asked"] for answer in answers), default=0.0)
    words = f"{len(answers) - len(refused)} experiments accepted, {len(refused)} refused"
    return "; ".join([words, f"the longest wait for an answer: {longest:.2f} s", *refused[:3]])


def count(url, log):
    """Say which of the experiments that were acknowledged the service still has; 1 if not all."""
    with open(log, encoding="utf-8") as lines:
        acknowledged = {answer["id"] for answer in map(json.loads, lines) if "id" in answer}
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        found = {experiment["id"] for experiment in json.load(answer)}
    missing = acknowledged - found
    words = f"{len(acknowledged)} experiments acknowledged, {len(acknowledged & found)} of them found"
    sys.stdout.write(f"{words}, {len(missing)} missing\n")
    return 1 if missing else 0


def main(url, log="/dev/null"):
    """Ask until the end."""
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    answers = []
    with open(log, "w", encoding="utf-8", buffering=1) as lines:
        while not end.is_set():
            answers.append(ask(url, len(answers) + 1))
            lines.write(json.dumps(answers[-1]) + "\n")
            end.wait(PAUSE_S)
    sys.stdout.write(summary(answers) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--count"]:
        sys.exit(count(*sys.argv[2:]))
    main(*sys.argv[1:])
