"""What a guest wants on a TCP connection, found out from what it says. Pure.

- It speaks first: an HTTP request is answered with 503, a TLS greeting with an alert, anything else with the end of
  the connection, once its first bytes are known.
- It waits, or comes to a port of mail: it is greeted as by a mail server. A client of SMTP goes on with its dialogue;
  a client of another protocol in which the server speaks first betrays itself, or gives up.
"""

from __future__ import annotations

from collections.abc import Callable

from forkbed.core.networks.intents import IntentKind
from forkbed.core.networks.recording import dns, http, smtp, tls
from forkbed.core.networks.recording.smtp import SmtpDialogue
from forkbed.core.networks.recording.text import printable
from forkbed.core.networks.recording.understood import FIRST_BYTES, Conversation, Reaction, Understood

DNS_PORT = 53
Answer = Callable[[dns.Query], tuple[bytes, Understood]]
"""Answers a question to a name server, and says what was asked."""

_PATIENCE_S = 2.0
_PATIENCE_FOR_THE_REST_S = 5.0
_PATIENCE_WITH_STRANGERS_S = 0.5


def begin(port: int, answer: Answer) -> tuple[Conversation, Reaction]:
    """The conversation of a connection to that port, and what is said first."""
    if port == DNS_PORT:
        return DnsStream(answer), Reaction()
    if port in smtp.PORTS:
        return SmtpDialogue(), Reaction(smtp.GREETING)
    return Stranger(), Reaction()


class Stranger:
    """A client of which nothing is known yet."""

    def __init__(self) -> None:
        self._said = b""
        self._dialogue: SmtpDialogue | None = None

    @property
    def patience_s(self) -> float:
        """Longer with a client that is not through with something understood."""
        if self._dialogue is not None:
            return self._dialogue.patience_s
        if not self._said:
            return _PATIENCE_S
        understands = http.may_begin(self._said) or tls.may_begin(self._said)
        return _PATIENCE_FOR_THE_REST_S if understands else _PATIENCE_WITH_STRANGERS_S

    def hear(self, data: bytes) -> Reaction:
        """Find out what it is, once enough has come."""
        if self._dialogue is not None:
            return self._dialogue.hear(data)
        self._said += data
        if tls.may_begin(self._said):
            if tls.server_name(self._said) is tls.Greeting.INCOMPLETE and len(self._said) < tls.LONGEST_HELLO:
                return Reaction()
        elif http.may_begin(self._said):
            if not http.is_complete(self._said):
                return Reaction()
        elif len(self._said) < FIRST_BYTES:
            return Reaction()
        return self._conclude()

    def fall_silent(self) -> Reaction:
        """Greet who waits; take what was said by others for all there is."""
        if self._dialogue is not None:
            return self._dialogue.fall_silent()
        if self._said:
            return self._conclude()
        self._dialogue = SmtpDialogue()
        return Reaction(smtp.GREETING)

    def end(self) -> tuple[Understood, ...]:
        """What it was, as far as it came."""
        return self._dialogue.end() if self._dialogue is not None else self._conclude().understood

    def _conclude(self) -> Reaction:
        request = http.parse(self._said)
        if request is not None:
            return Reaction(request.answer(), (request.understood(),), closes=True)
        name = tls.server_name(self._said)
        if isinstance(name, str):
            greeted = Understood(IntentKind.TLS, host=name, details={"host": name})
            return Reaction(tls.REFUSAL, (greeted,), closes=True)
        unknown = Understood(IntentKind.TCP, first_bytes=printable(self._said, FIRST_BYTES))
        return Reaction(understood=(unknown,), closes=True)


class DnsStream:
    """Questions to a name server, each with its length before it."""

    _MOST_QUERIES = 100

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._unread = b""
        self._queries = 0
        self._said = b""

    @property
    def patience_s(self) -> float:
        """As name servers have."""
        return _PATIENCE_FOR_THE_REST_S

    def hear(self, data: bytes) -> Reaction:
        """Answer every whole question."""
        if not self._queries:
            self._said = (self._said + data)[:FIRST_BYTES]
        self._unread += data
        answers = b""
        understood: list[Understood] = []
        while len(self._unread) >= 2:
            length = int.from_bytes(self._unread[:2], "big")
            if len(self._unread) < 2 + length:
                break
            message, self._unread = self._unread[2 : 2 + length], self._unread[2 + length :]
            query = dns.parse_query(message)
            if not isinstance(query, dns.Query) or self._queries == self._MOST_QUERIES:
                return Reaction(answers, (*understood, *self.end()), closes=True)
            self._queries += 1
            answer, asked = self._answer(query)
            answers += len(answer).to_bytes(2, "big") + answer
            understood.append(asked)
        return Reaction(answers, tuple(understood))

    def fall_silent(self) -> Reaction:
        """Not waited for any longer."""
        return Reaction(understood=self.end(), closes=True)

    def end(self) -> tuple[Understood, ...]:
        """What was no question at all."""
        if self._queries:
            return ()
        return (Understood(IntentKind.TCP, first_bytes=printable(self._said, FIRST_BYTES)),)
