"""What a conversation with a guest comes to: what to answer, and as what its try was understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from forkbed.core.networks.intents import IntentKind

FIRST_BYTES = 256
"""So many of what a guest sent are kept where it was not understood."""

SHOWN_BYTES = 500
"""So many of each thing that was understood, a path or a subject, are kept."""


@dataclass(frozen=True, slots=True)
class Understood:
    """A try, without when, who and where. `source` is set where another asked in the guest's name."""

    kind: IntentKind
    host: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    first_bytes: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Reaction:
    """What to do next in a conversation: send `answer`, write down what was `understood`, end it if it `closes`."""

    answer: bytes = b""
    understood: tuple[Understood, ...] = ()
    closes: bool = False


class Conversation(Protocol):
    """One connection that a guest opened, as bytes; without sockets and clock.

    After a reaction that closes nothing more is said to it.
    """

    @property
    def patience_s(self) -> float:
        """How long the guest may say nothing before `fall_silent`."""

    def hear(self, data: bytes) -> Reaction:
        """The guest sent this."""

    def fall_silent(self) -> Reaction:
        """The guest said nothing for `patience_s`."""

    def end(self) -> tuple[Understood, ...]:
        """The guest went away, or may say no more; what was understood and not told yet."""
