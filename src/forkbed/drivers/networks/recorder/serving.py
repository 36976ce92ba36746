"""The recorder's loop: one thread that attends to all sockets in turn."""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from forkbed.core.networks.intents import IntentKind
from forkbed.core.networks.recording import conversation, dns
from forkbed.core.networks.recording.conversation import Answer
from forkbed.core.networks.recording.names import Names
from forkbed.core.networks.recording.text import printable
from forkbed.core.networks.recording.understood import FIRST_BYTES, Conversation, Reaction, Understood
from forkbed.drivers.networks.recorder.journal import DROPS_EVERY_S, Journal
from forkbed.drivers.networks.recorder.settings import Settings
from forkbed.drivers.networks.recorder.sockets import Address, Sockets, accepted

Events = int

_DRAIN_S = 2.0
_CHUNK_BYTES = 1 << 16


@dataclass(slots=True, eq=False)
class Connection:
    """One that a guest opened. `unsent` is left to be sent; `is_over` when only the end is waited for."""

    socket: socket.socket
    source: str
    destination: Address
    talk: Conversation
    silent_at: float
    ends_at: float
    received: int = 0
    unsent: bytes = b""
    is_over: bool = False


class Recorder:
    """Serves the sockets until it is told to end."""

    def __init__(self, sockets: Sockets, journal: Journal, names: Names, settings: Settings) -> None:
        self._sockets = sockets
        self._journal = journal
        self._names = names
        self._gateway = (str(settings.gateway), conversation.DNS_PORT)
        self._limits = settings.limits
        self._connections: set[Connection] = set()
        self._selector = selectors.DefaultSelector()
        self._is_told_to_end = False
        for opened, action in (
            (sockets.tcp, self._accept_guests),
            (sockets.names_tcp, self._accept_dnsmasq),
            (sockets.udp, self._hear_guests),
            (sockets.names_udp, self._hear_dnsmasq),
        ):
            self._selector.register(opened, selectors.EVENT_READ, action)

    def serve(self, wakes: socket.socket) -> None:
        """Until `wakes` can be read; then what is known by then is written down."""
        self._selector.register(wakes, selectors.EVENT_READ, self._end)
        while not self._is_told_to_end:
            for key, events in self._selector.select(self._patience_s()):
                action: Callable[[Events], None] = key.data
                action(events)
            self._look_at_clock()
        for connection in list(self._connections):
            self._hang_up(connection)
        self._journal.tell_drops()

    def _end(self, _: Events) -> None:
        self._is_told_to_end = True

    def _patience_s(self) -> float | None:
        """How long nothing needs to be done unless something comes."""
        due = [min(c.silent_at, c.ends_at) - time.monotonic() for c in self._connections]
        if self._journal.has_drops:
            due.append(DROPS_EVERY_S)
        return max(0.0, min(due)) if due else None

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        for connection in list(self._connections):
            if now >= connection.ends_at or (connection.is_over and now >= connection.silent_at):
                self._cut_off(connection)
            elif now >= connection.silent_at:
                reaction = connection.talk.fall_silent()
                connection.silent_at = now + connection.talk.patience_s
                self._react(connection, reaction)
        self._journal.tell_drops_sometimes()

    # Connections

    def _accept_guests(self, _: Events) -> None:
        for opened, (source, _) in accepted(self._sockets.tcp):
            self._begin(opened, source, opened.getsockname(), self._answer)

    def _accept_dnsmasq(self, _: Events) -> None:
        for opened, (source, _) in accepted(self._sockets.names_tcp):
            self._begin(opened, source, self._gateway, self._answer_dnsmasq)

    def _begin(self, opened: socket.socket, source: str, destination: Address, answer: Answer) -> None:
        of_the_same = sum(connection.source == source for connection in self._connections)
        is_full = len(self._connections) >= self._limits.connections
        if is_full or of_the_same >= self._limits.connections_of_one:
            _reset_when_closed(opened)
            opened.close()
            self._journal.drop()
            return
        opened.setblocking(False)
        talk, first = conversation.begin(destination[1], answer)
        now = time.monotonic()
        ends_at = now + self._limits.connection_s
        connection = Connection(opened, source, destination, talk, now + talk.patience_s, ends_at)
        self._connections.add(connection)
        self._selector.register(opened, selectors.EVENT_READ, lambda events: self._attend(connection, events))
        self._react(connection, first)

    def _attend(self, connection: Connection, events: Events) -> None:
        if events & selectors.EVENT_WRITE:
            self._send(connection)
        if events & selectors.EVENT_READ and connection in self._connections:
            self._receive(connection)

    def _receive(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # reset by the guest
        connection.received += len(data)
        if connection.received > self._limits.connection_bytes:
            self._cut_off(connection)
        elif not data:
            self._hang_up(connection)
        elif not connection.is_over:
            reaction = connection.talk.hear(data)
            connection.silent_at = time.monotonic() + connection.talk.patience_s
            self._react(connection, reaction)

    def _react(self, connection: Connection, reaction: Reaction) -> None:
        self._tell(connection, reaction.understood)
        connection.unsent += reaction.answer
        if reaction.closes:
            # What the guest still sends is read away: closing before that would take our answer from it.
            connection.is_over = True
            connection.silent_at = time.monotonic() + _DRAIN_S
        self._send(connection)

    def _send(self, connection: Connection) -> None:
        """Send what can be sent now, and the end after the last of it."""
        try:
            sent = connection.socket.send(connection.unsent) if connection.unsent else 0
            connection.unsent = connection.unsent[sent:]
            if connection.is_over and not connection.unsent:
                connection.socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up(connection)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        key = self._selector.get_key(connection.socket)
        if key.events != events:
            self._selector.modify(connection.socket, events, key.data)

    def _cut_off(self, connection: Connection) -> None:
        """End a connection that the guest does not end, so that the kernel keeps nothing of it either."""
        _reset_when_closed(connection.socket)
        self._hang_up(connection)

    def _hang_up(self, connection: Connection) -> None:
        if not connection.is_over:
            self._tell(connection, connection.talk.end())
        self._selector.unregister(connection.socket)
        self._connections.remove(connection)
        connection.socket.close()

    def _tell(self, connection: Connection, understood: tuple[Understood, ...]) -> None:
        for what in understood:
            self._journal.tell(what, connection.source, connection.destination)

    # Datagrams

    def _hear_guests(self, _: Events) -> None:
        for data, source, destination in self._sockets.datagrams():
            if destination[1] == conversation.DNS_PORT:
                query = dns.parse_query(data)
                answer = self._answered(query, source, destination, self._answer)
                if answer is not None:
                    self._sockets.answer_guest(answer, destination, source)
                    continue
            if self._journal.is_new((source, destination)):
                unknown = Understood(IntentKind.UDP, first_bytes=printable(data, FIRST_BYTES))
                self._journal.tell(unknown, source[0], destination)
        self._journal.drop(self._sockets.take_overflown())

    def _hear_dnsmasq(self, _: Events) -> None:
        for data, source in self._sockets.questions():
            query = dns.parse_query(data)
            answer = self._answered(query, source, self._gateway, self._answer_dnsmasq)
            if answer is not None:
                self._sockets.answer_dnsmasq(answer, source)

    def _answered(
        self, query: dns.Query | bytes | None, source: Address, destination: Address, answer: Answer
    ) -> bytes | None:
        """What to send back; the question is written down."""
        if not isinstance(query, dns.Query):
            return query
        data, asked = answer(query)
        self._journal.tell(asked, source[0], destination)
        return data

    def _answer(self, query: dns.Query) -> tuple[bytes, Understood]:
        data, says = self._names.answer(query)
        details = {"name": query.name, "type": query.type_name, "answer": says}
        return data, Understood(IntentKind.DNS, query.name, details)

    def _answer_dnsmasq(self, query: dns.Query) -> tuple[bytes, Understood]:
        """dnsmasq says for whom it asks; a guest that said so itself would not be believed."""
        data, asked = self._answer(query)
        return data, replace(asked, source=str(query.client or ""))


def _reset_when_closed(opened: socket.socket) -> None:
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # on, no time
