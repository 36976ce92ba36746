"""A client: ask each address over UDP every 5 ms and note when answers came. Uses no part of Forkbed.

Run in the network's namespace with port and addresses; ends at the end of its input, then prints the times of the
answers (CLOCK_MONOTONIC) by address as JSON. It comes first on the machine, as if it was on another.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time

EVERY_S = 0.005


def main(port: int, addresses: list[str]) -> None:
    """Ask and listen until nobody wants to know any more."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except PermissionError:  # a control group may allow none of it
        os.nice(-20)
    answers: dict[str, list[float]] = {address: [] for address in addresses}
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.setblocking(False)
    due = time.monotonic()
    while True:
        readable, _, _ = select.select([client, sys.stdin], [], [], max(0.0, due - time.monotonic()))
        if client in readable:
            _, (address, _) = client.recvfrom(64)
            answers[address].append(time.monotonic())
        if sys.stdin in readable:
            break
        if time.monotonic() >= due:
            due += EVERY_S
            for address in addresses:
                client.sendto(b"?", (address, port))
    print(json.dumps(answers))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
