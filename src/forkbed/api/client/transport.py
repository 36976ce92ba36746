"""Requests over the Unix socket, and failures as `OperationalError`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from forkbed.api.contract import COMMAND_HEADER, IDEMPOTENCY_HEADER, quote_command
from forkbed.api.problems import PROBLEM_MEDIA_TYPE, error_of, error_of_status
from forkbed.base.errors import Kind, OperationalError

BASE_URL = "http://forkbed"
_CONNECT_S = 10.0
PATIENCE_S = 60.0
"""How long a server that is being started again is waited for."""
_ASK_AGAIN_S = 0.2


class Transport:
    """One connection pool to one socket. `command` tells the server what the person typed."""

    def __init__(self, socket: Path, *, command: str = "", start_hint: str = "") -> None:
        self.socket = socket
        self.start_hint = start_hint or "start it: `forkbed serve --detach`, or `systemctl start forkbed`"
        self.headers = {COMMAND_HEADER: quote_command(command)} if command else {}
        self._http = httpx2.Client(
            transport=httpx2.HTTPTransport(uds=str(socket), verify=False, trust_env=False),
            base_url=BASE_URL,
            headers=self.headers,
            # A call may wait long for the engine, but a socket that takes no connection is dead.
            timeout=httpx2.Timeout(None, connect=_CONNECT_S),
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **params: object) -> Any:
        """The answer's JSON. `params` that are None are left out."""
        return self.send("GET", path, params=_given(params)).json()

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | Iterator[bytes] | None = None,
    ) -> httpx2.Response:
        """One request. Raises what a problem document tells, UNREACHABLE without an answer.

        A request that got no answer is sent once more if it can be: reads, and writes with an idempotency key
        whose body is at hand. For a write a server that has gone is waited for: it may have accepted it, and only
        the next one can tell.
        """
        repeatable = not isinstance(content, Iterator) and (
            method == "GET" or IDEMPOTENCY_HEADER in (headers or {})
        )
        lost_at: float | None = None
        while True:
            try:
                response = self._http.request(method, path, params=params, headers=headers, content=content)
                break
            except httpx2.TransportError as error:
                now = time.monotonic()
                arrived = not isinstance(error, httpx2.ConnectError)
                if arrived and repeatable and lost_at is None:
                    lost_at = now
                    continue
                if arrived or lost_at is None or method == "GET" or now - lost_at > PATIENCE_S:
                    raise self.unreachable(error) from error
                time.sleep(_ASK_AGAIN_S)
        check(response)
        return response

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float | None = None,
    ) -> Iterator[httpx2.Response]:
        """A GET whose body is read piece by piece; UNREACHABLE after `silence_s` without any."""
        timeout = httpx2.Timeout(None, connect=_CONNECT_S, read=silence_s)
        try:
            with self._http.stream("GET", path, params=params, headers=headers, timeout=timeout) as response:
                if response.is_error:
                    response.read()
                check(response)
                yield response
        except httpx2.TransportError as error:
            raise self.unreachable(error) from error

    def unreachable(self, error: Exception) -> OperationalError:
        """What it means that no answer came."""
        if isinstance(_root(error), PermissionError):
            return OperationalError(
                Kind.UNREACHABLE,
                str(self.socket),
                "this account may not use this Forkbed",
                "run it as root, or have the account added to the group `forkbed` and log in again",
            )
        if isinstance(error, (httpx2.ConnectError, OSError)):
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


def check(response: httpx2.Response) -> None:
    """Raise what an answer with an error status tells. Its body must have been read."""
    if not response.is_error:
        return
    if response.headers.get("content-type", "").startswith(PROBLEM_MEDIA_TYPE):
        raise error_of(json.loads(response.content))
    raise error_of_status(
        response.status_code,
        "forkbed serve",
        f"answered {response.status_code} {response.reason_phrase} without saying why",
    )


def _given(params: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _root(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
