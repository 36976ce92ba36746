"""Ask a guest once whether it is in order, by TCP or HTTP, from inside its network's namespace."""

from __future__ import annotations

import http.client
import socket
import time

from forkbed.drivers.guests.namespaces import connect
from forkbed.ports.guests import ProbeAnswer

PROBE_TIMEOUT_S = 5.0
_GOOD = ProbeAnswer(True, "")
_SSH_PORT = 22
_SSH_GREETING = "SSH-"
_LONGEST_GREETING = 1024
_LONGEST_LINE = 200
_GREETING_TIMEOUT_S = 5.0


def probe_tcp(namespace: str, address: str, port: int, *, timeout_s: float = PROBE_TIMEOUT_S) -> ProbeAnswer:
    """Whether something accepts connections there."""
    try:
        connect(namespace, (address, port), timeout_s).close()
    except OSError as error:
        return ProbeAnswer(False, f"TCP port {port}: {_words(error)}")
    return _GOOD


def probe_http(namespace: str, address: str, port: int, path: str, status: int) -> ProbeAnswer:
    """Whether a GET of `path` is answered with `status`; if not, the reason holds the first line of the answer."""
    what = f"http://{address}:{port}{path}"
    deadline = time.monotonic() + PROBE_TIMEOUT_S
    client = http.client.HTTPConnection(address, port)
    try:
        client.sock = connect(namespace, (address, port), PROBE_TIMEOUT_S)
        client.sock.settimeout(max(0.1, deadline - time.monotonic()))
        client.request("GET", path, headers={"Connection": "close", "User-Agent": "forkbed"})
        answer = client.getresponse()
        if answer.status != status:
            said = _first_line(answer.read1(_LONGEST_LINE))
            return ProbeAnswer(False, f"{what}: status {answer.status}, wanted {status}{said and ': '}{said}")
    except OSError as error:
        return ProbeAnswer(False, f"{what}: {_words(error)}")
    except (http.client.HTTPException, ValueError) as error:
        return ProbeAnswer(False, f"{what}: no HTTP answer ({type(error).__name__})")
    finally:
        client.close()
    return _GOOD


def _first_line(body: bytes) -> str:
    """Fit for a message: a guest may answer anything."""
    line = body.strip().partition(b"\n")[0].decode(errors="replace").strip()
    return "".join(letter if letter.isprintable() else " " for letter in line)


def greeting(namespace: str, address: str, *, connect_timeout_s: float) -> str:
    """What the ssh server there says of itself ("SSH-2.0-OpenSSH_9.2"); "" if none answers.

    The time limit for connecting is short because a guest that is not up yet does not answer at all: a new try
    finds it sooner than a repeated packet of an old one. One that took the connection gets more time.
    """
    try:
        connection = connect(namespace, (address, _SSH_PORT), connect_timeout_s)
    except OSError:
        return ""
    with connection:
        try:
            connection.settimeout(_GREETING_TIMEOUT_S)
            line = _receive_line(connection)
        except OSError:
            return ""
    return line if line.startswith(_SSH_GREETING) else ""


def _receive_line(connection: socket.socket) -> str:
    data = b""
    while b"\n" not in data and len(data) < _LONGEST_GREETING and (more := connection.recv(256)):
        data += more
    return data.partition(b"\n")[0].decode(errors="replace").strip()


def _words(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror or str(error)).lower()
