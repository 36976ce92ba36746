"""What every part of the client does: ask a path under /v1, with the headers of a write where it is one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from forkbed.api.client.transport import Transport
from forkbed.api.codec import decode, encode
from forkbed.api.contract import IDEMPOTENCY_HEADER, IF_MATCH_HEADER, PREFIX, entity_tag
from forkbed.base.errors import OperationalError

if TYPE_CHECKING:
    from forkbed.core.operations.records import Operation

OnGap = Callable[[OperationalError], None]


class Calls:
    """The connections to the server at `socket`. A context manager; safe to use from several threads."""

    def __init__(self, socket: Path, *, command: str = "", start_hint: str = "") -> None:
        self._transport = Transport(socket, command=command, start_hint=start_hint)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _get(self, path: str, **params: object) -> Any:
        return self._transport.get(PREFIX + path, **params)

    def _list(self, kind: type[Any], path: str, **params: object) -> list[Any]:
        return [decode(kind, item) for item in self._get(path, **params)]

    def _write(
        self,
        method: str,
        path: str,
        body: object,
        *,
        if_match: int | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        headers = self._write_headers(if_match, idempotency_key)
        content = b""
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(encode(body)).encode()
        answer = self._transport.send(method, PREFIX + path, headers=headers, content=content)
        return json.loads(answer) if answer else None

    def _start(
        self,
        path: str,
        body: object = None,
        *,
        method: str = "POST",
        if_match: int | None = None,
        idempotency_key: str | None = None,
    ) -> Operation:
        answer = self._write(method, path, body, if_match=if_match, idempotency_key=idempotency_key)
        from forkbed.core.operations.records import Operation  # not before it is under way

        return decode(Operation, answer)

    def _write_headers(self, if_match: int | None, idempotency_key: str | None) -> dict[str, str]:
        headers = {IDEMPOTENCY_HEADER: idempotency_key or os.urandom(16).hex()}
        if if_match is not None:
            headers[IF_MATCH_HEADER] = entity_tag(if_match)
        return headers


def segment(text: str) -> str:
    """`text` as one segment of a path."""
    return quote(text, safe=":")
