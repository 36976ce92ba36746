"""The frames of `exec` and `console` on a WebSocket: one byte that names the channel, then the bytes.

Both directions are bounded. Output waits for the peer to read its socket. Input has a window: the client sends
no more than the server has granted (`window` messages), so a command that does not read its input never keeps
the server from seeing a resize, or that the client has gone.

Control messages are JSON objects with a `type`. From the server: `opened` (via, notice), `window` (bytes granted
in addition), `exit` (status), `error` (problem). From the client: `resize` (rows, columns).
"""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Any

FRAME_BYTES = 64 * 1024
"""What one frame carries at most, as sent by Forkbed."""
MESSAGE_LIMIT_BYTES = 1024 * 1024
"""The largest message that either side takes."""
INPUT_WINDOW_BYTES = 1024 * 1024
"""How much input may be under way, not yet taken by the command."""


class Channel(IntEnum):
    """The first byte of each frame. An empty INPUT frame closes the command's standard input."""

    INPUT = 0
    OUTPUT = 1
    ERROR_OUTPUT = 2
    CONTROL = 3


def pack(channel: Channel, data: bytes = b"") -> bytes:
    """A frame of that channel."""
    return bytes((channel,)) + data


def pack_control(kind: str, **values: object) -> bytes:
    """A control frame."""
    return pack(Channel.CONTROL, json.dumps({"type": kind, **values}).encode())


def unpack(frame: bytes) -> tuple[Channel, bytes]:
    """Channel and content of a frame. Raises `ValueError` for anything that is no frame."""
    if not frame:
        raise ValueError("an empty frame has no channel")
    return Channel(frame[0]), frame[1:]


def read_control(data: bytes) -> dict[str, Any]:
    """The content of a control frame. Raises `ValueError` unless it is a JSON object with a type."""
    message = json.loads(data)
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ValueError("a control message is a JSON object with a type")
    return message
