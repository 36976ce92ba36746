"""One run of the command line: its global options, and the client that goes with them.

Light: imported before anything is known about the command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING

from forkbed.base.errors import Kind, OperationalError

if TYPE_CHECKING:
    from forkbed.api.client import Client

SOCKET_VARIABLE = "FORKBED_SOCKET"
LAB_VARIABLE = "FORKBED_LAB"
_WITH_VALUE = {"--socket": "socket", "--lab": "lab"}
_FOREIGN = frozenset({"doctor", "host", "lab"})
"""Commands that know their own `--json` and no socket."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """`tokens` is the command without the global options; `typed` the whole command line for the trail."""

    tokens: tuple[str, ...]
    typed: str
    json: bool = False
    socket: str = ""
    lab: str = ""

    @property
    def socket_path(self) -> Path:
        """Where the server is to be found: --socket, --lab, else the settings."""
        if self.socket:
            return Path(self.socket)
        from forkbed.config.settings import load_settings

        settings = load_settings(os.environ)
        if self.lab:
            return settings.lab_dir / self.lab / "run/forkbed/api.sock"
        return settings.api_socket

    def client(self) -> Client:
        """A client of the server. Nothing is asked yet."""
        from forkbed.api.client import Client

        hint = f"start it: `forkbed lab exec --name {self.lab} -- forkbed serve --detach`" if self.lab else ""
        return Client(self.socket_path, command=self.typed, start_hint=hint)


_current: Invocation | None = None


def current() -> Invocation:
    """The run under way."""
    assert _current is not None
    return _current


def begin(arguments: Sequence[str]) -> Invocation:
    """Take the global options out of the arguments and make this the run under way.

    They may stand anywhere before a `--`. Raises INVALID for one whose value is missing, or for both --socket
    and --lab.
    """
    global _current
    own, rest = _split(arguments)
    options = {"socket": "", "lab": ""}
    tokens: list[str] = []
    wants_json = False
    position = 0
    while position < len(own):
        token = own[position]
        name, separator, value = token.partition("=")
        if token == "--json":
            wants_json = True
        elif name in _WITH_VALUE:
            if not separator:
                position += 1
                if position == len(own):
                    raise OperationalError(Kind.INVALID, name, "its value is missing", f"{name} VALUE")
                value = own[position]
            options[_WITH_VALUE[name]] = value
        else:
            tokens.append(token)
        position += 1
    if tokens and tokens[0] in _FOREIGN and wants_json and tokens[1:2] != ["exec"]:
        tokens.append("--json")
    if options["socket"] and options["lab"]:
        raise OperationalError(Kind.INVALID, "--socket", "contradicts --lab", "give one of them")
    if not any(options.values()):
        options["socket"] = os.environ.get(SOCKET_VARIABLE, "")
        options["lab"] = "" if options["socket"] else os.environ.get(LAB_VARIABLE, "")
    _current = Invocation((*tokens, *rest), join(("forkbed", *arguments)), wants_json, **options)
    return _current


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    return words[:end], words[end:]


def wants_colour(stream_number: int = 1) -> bool:
    """Whether standard output (or error, 2) is a terminal that shows colours."""
    stream = sys.stdout if stream_number == 1 else sys.stderr
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
