"""Requests over the Unix socket, and failures as `OperationalError`.

With the standard library's client: importing a larger one took as long as all else that a command does.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from forkbed.api.contract import COMMAND_HEADER, IDEMPOTENCY_HEADER, quote_command
from forkbed.api.problems import PROBLEM_MEDIA_TYPE, error_of, error_of_status
from forkbed.base.errors import Kind, OperationalError

_CONNECT_S = 10.0
PATIENCE_S = 60.0
"""How long a server that is being started again is waited for."""
_ASK_AGAIN_S = 0.2
_CHUNK_BYTES = 64 * 1024
_BROKEN = (OSError, http.client.HTTPException)


class Stream:
    """An answer whose body is read as it arrives. A connection that breaks meanwhile is UNREACHABLE."""

    def __init__(
        self, response: http.client.HTTPResponse, broken: Callable[[Exception], OperationalError]
    ) -> None:
        self._response = response
        self._broken = broken
        self.status = response.status

    def chunks(self, size_bytes: int = _CHUNK_BYTES) -> Iterator[bytes]:
        """The body in pieces of at most that size."""
        while chunk := self._take(lambda: self._response.read1(size_bytes)):
            yield chunk
        if self._response.length:  # how much is missing: `read1` passes over an early end
            raise self._broken(http.client.IncompleteRead(b"", self._response.length))

    def lines(self) -> Iterator[str]:
        """The body line by line, without the ends of the lines."""
        while line := self._take(self._response.readline):
            yield line.decode().rstrip("\r\n")

    def _take(self, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except _BROKEN as error:
            raise self._broken(error) from error


class Transport:
    """Requests to one socket; thread-safe. `command` tells the server what the person typed."""

    def __init__(self, socket: Path, *, command: str = "", start_hint: str = "") -> None:
        self.socket = socket
        self.start_hint = start_hint or "start it: `forkbed serve --detach`, or `systemctl start forkbed`"
        self.headers = {COMMAND_HEADER: quote_command(command)} if command else {}
        self._idle: list[_Connection] = []

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            self._idle.pop().close()

    def get(self, path: str, **params: object) -> Any:
        """The answer's JSON. `params` that are None are left out."""
        return json.loads(self.send("GET", path, params=params))

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | Iterator[bytes] | None = None,
    ) -> bytes:
        """One request; the answer's body. Raises what a problem document tells, UNREACHABLE without an answer.

        A request that got no answer is sent once more if it can be: reads, and writes with an idempotency key
        whose body is at hand. For a write a server that has gone is waited for: it may have accepted it, and only
        the next one can tell.
        """
        repeatable = not isinstance(content, Iterator) and (
            method == "GET" or IDEMPOTENCY_HEADER in (headers or {})
        )
        lost_at: float | None = None
        while True:
            connection = self._take_idle() if repeatable else _Connection(self.socket)
            try:
                response = self._ask(connection, method, path, params, headers, content)
                body = response.read()
                self._idle.append(connection)
                break
            except _BROKEN as error:
                connection.close()
                now = time.monotonic()
                if connection.is_made and repeatable and lost_at is None:
                    lost_at = now
                elif connection.is_made or lost_at is None or method == "GET" or now - lost_at > PATIENCE_S:
                    raise self.unreachable(error, was_connected=connection.is_made) from error
                time.sleep(_ASK_AGAIN_S)  # the kernel takes connections for a server that is just ending, too
        _check(response, body)
        return body

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        params: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float | None = None,
    ) -> Iterator[Stream]:
        """A GET whose body is read piece by piece; UNREACHABLE after `silence_s` without any."""
        connection = _Connection(self.socket, silence_s)
        try:
            try:
                response = self._ask(connection, "GET", path, params, headers, None)
                if response.status >= http.client.BAD_REQUEST:
                    _check(response, response.read())
            except _BROKEN as error:
                raise self.unreachable(error, was_connected=connection.is_made) from error
            yield Stream(response, partial(self.unreachable, was_connected=True))
        finally:
            connection.close()

    def _take_idle(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            connection.close()
        return _Connection(self.socket)

    def _ask(
        self,
        connection: _Connection,
        method: str,
        path: str,
        params: Mapping[str, object] | None,
        headers: Mapping[str, str] | None,
        content: bytes | Iterator[bytes] | None,
    ) -> http.client.HTTPResponse:
        given = {name: _word(value) for name, value in (params or {}).items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        if not connection.is_made:
            connection.connect()
        # A server that refuses a long body may answer and close before it has read it all.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, target, content, self.headers | dict(headers or {}))
        return connection.getresponse()

    def unreachable(self, error: Exception, *, was_connected: bool = False) -> OperationalError:
        """What it means that no answer came."""
        if isinstance(error, PermissionError):
            return OperationalError(
                Kind.UNREACHABLE,
                str(self.socket),
                "this account may not use this Forkbed",
                "run it as root, or have the account added to the group `forkbed` and log in again",
            )
        if isinstance(error, OSError) and not was_connected:
            return OperationalError(
                Kind.UNREACHABLE,
                "forkbed serve",
                f"no server answers at {self.socket}",
                self.start_hint,
            )
        return OperationalError(
            Kind.UNREACHABLE,
            "forkbed serve",
            f"the connection to {self.socket} broke: {error}",
            "look again whether it was done: `forkbed operations`",
        )


class _Connection(http.client.HTTPConnection):
    """One connection to the socket. A call may wait long for the engine, but not for a socket to take it."""

    def __init__(self, path: Path, silence_s: float | None = None) -> None:
        super().__init__("forkbed")
        self._path = path
        self._silence_s = silence_s
        self.is_made = False
        """Whether the server ever took it."""

    @property
    def is_usable(self) -> bool:
        """Whether the server, as far as is known, takes another request on it; one that closed it has said so."""
        return self.sock is not None and not select.select([self.sock], [], [], 0)[0]

    def connect(self) -> None:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(_CONNECT_S)
            made.connect(str(self._path))
        except OSError:
            made.close()
            raise
        made.settimeout(self._silence_s)
        self.sock = made
        self.is_made = True


def _check(response: http.client.HTTPResponse, body: bytes) -> None:
    """Raise what an answer with an error status tells."""
    if response.status < http.client.BAD_REQUEST:
        return
    if response.headers.get_content_type() == PROBLEM_MEDIA_TYPE:
        raise error_of(json.loads(body))
    raise error_of_status(
        response.status, "forkbed serve", f"answered {response.status} {response.reason} without saying why"
    )


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
