"""HTTP requests, as far as they are written down: method, host, path. Pure.

Headers other than `Host` and all bodies are passed over: they hold what a person would not want to find in a list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from forkbed.core.networks.intents import IntentKind
from forkbed.core.networks.recording.text import printable
from forkbed.core.networks.recording.understood import SHOWN_BYTES, Understood

LONGEST_HEAD = 16 << 10

_METHOD = rb"[A-Z][A-Z-]{0,19}"
_BEGINNING = re.compile(_METHOD + rb"(?: [!-~\x80-\xff]*(?: (?:H(?:T(?:T(?:P(?:/[0-9.]*)?)?)?)?)?\r?)?)?")
_REQUEST = re.compile(rb"(" + _METHOD + rb") ([!-~\x80-\xff]+) HTTP/[0-9.]{1,5}\r?\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_HOST = re.compile(rb"\n[Hh][Oo][Ss][Tt]:[ \t]*([^\r\n]*)")
_AUTHORITY = re.compile(rb"[a-z]+://([^/?#]*)", re.IGNORECASE)
_TEXT = (
    b"This is a fork of a system: nothing that it sends reaches the world.\n"
    b"The request was written down as an intent.\n"
)


@dataclass(frozen=True, slots=True)
class Request:
    method: bytes
    target: bytes
    host: bytes

    def understood(self) -> Understood:
        host = printable(self.host, SHOWN_BYTES)
        return Understood(
            IntentKind.HTTP,
            host=host.rpartition("@")[2].partition(":")[0],
            details={
                "method": printable(self.method, SHOWN_BYTES),
                "host": host,
                "path": printable(self.target, SHOWN_BYTES),
            },
        )

    def answer(self) -> bytes:
        """That the service is not available, and why."""
        head = (
            "HTTP/1.1 503 Service Unavailable\r\n"
            "Content-Type: text/plain\r\n"
            f"Content-Length: {len(_TEXT)}\r\n"
            "Connection: close\r\n\r\n"
        )
        return head.encode() + (b"" if self.method == b"HEAD" else _TEXT)


def may_begin(data: bytes) -> bool:
    """Whether a request may begin with these bytes."""
    line, newline, _ = data.partition(b"\n")
    return bool(_REQUEST.match(data) if newline else _BEGINNING.fullmatch(line))


def is_complete(data: bytes) -> bool:
    """Whether the head of the request has ended, or is too long to be waited for."""
    return len(data) >= LONGEST_HEAD or _HEAD_END.search(data) is not None


def parse(data: bytes) -> Request | None:
    """The request that begins here, if its first line is there; its host as far as it is known by now."""
    head = _HEAD_END.split(data[:LONGEST_HEAD], maxsplit=1)[0]
    found = _REQUEST.match(data)
    if found is None:
        return None
    method, target = found[1], found[2]
    authority = target if method == b"CONNECT" else b""
    if absolute := _AUTHORITY.match(target):
        authority = absolute[1]
    named = _HOST.search(head)
    return Request(method, target, authority or (named[1].strip() if named else b""))
