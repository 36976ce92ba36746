"""A command's status as the last thing on its standard error, behind a mark that nothing else can write. Pure.

ssh's own way of telling it is not enough: 255 may be the command's or mean that the connection broke, and so may a
channel that the server closed without a status.
"""

from __future__ import annotations

_END = b"\n"


def status_mark(token: str) -> bytes:
    """What precedes the status; `token` is random and known to nobody else."""
    return b"\0forkbed-status " + token.encode() + b" "


class StatusTrailer:
    """Takes the status out of a stream that arrives in pieces of any size."""

    def __init__(self, token: str) -> None:
        self._mark = status_mark(token)
        self._held = b""
        self._status: int | None = None

    @property
    def status(self) -> int | None:
        """The command's status, once it came."""
        return self._status

    def pass_on(self, data: bytes) -> bytes:
        """The stream's bytes without the trailer; those that may be its beginning are held back."""
        data = self._held + data
        self._held = b""
        start = data.find(self._mark)
        if start >= 0:
            end = data.find(_END, start)
            if end < 0:
                self._held = data[start:]
                return data[:start]
            self._status = int(data[start + len(self._mark) : end])
            return data[:start] + data[end + 1 :]
        start = data.rfind(self._mark[:1])
        if start >= 0 and self._mark.startswith(data[start:]):
            self._held = data[start:]
            return data[:start]
        return data

    def rest(self) -> bytes:
        """What is still held back when the stream has ended."""
        held, self._held = self._held, b""
        return held
