"""The recorder of one fork's network: the process at which everything ends that guests send out of their network.

It runs in the network's service namespace, where the rules hand TCP and UDP for anywhere to its port (see
`service_rules`), and dnsmasq its questions about names that are not the system's. It opens its sockets and files as
root and goes on without any rights; it opens no connection of its own, ever. What a guest can make it hold or write
is bounded: what is beyond is counted, and told as dropped.

Started as `python -m forkbed.drivers.networks.recorder SETTINGS` by a keeper. Imports little: there is one such process
for each network of each fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import resource
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from forkbed.core.networks.intents import Intent, IntentKind
from forkbed.core.networks.recording import conversation, dns
from forkbed.core.networks.recording.limits import Rate, Recent
from forkbed.core.networks.recording.names import Names
from forkbed.core.networks.recording.text import printable
from forkbed.core.networks.recording.understood import FIRST_BYTES, Conversation, Reaction, Understood
from forkbed.drivers.networks import intent_files
from forkbed.drivers.networks.intent_files import FileLimits, IntentFiles

LOOPBACK = "127.0.0.1"
"""Where the recorder listens; no guest reaches it there."""

PORT = 4000
"""TCP and UDP: where what guests send elsewhere is handed to."""

NAMES_PORT = 4053
"""TCP and UDP: where dnsmasq asks for names that are not the system's."""

_DNS = conversation.DNS_PORT
_IP_TRANSPARENT, _IP_RECVORIGDSTADDR = 19, 20  # of linux/in.h; the socket module has no names for them
_UDP_PROTOCOL = 17
_LARGEST_DATAGRAM = 65535
_AT_ONCE = 64
"""So many datagrams or connections are taken before others get their turn."""

_NICENESS = 10
_MEMORY_BYTES = 512 << 20
_DRAIN_S = 2.0
_DROPS_EVERY_S = 1.0

Events = int
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Limits:
    """What guests can make the recorder hold and write."""

    connections: int = 256
    connections_of_one: int = 64  # guest
    connection_bytes: int = 32 << 20
    connection_s: float = 300.0
    intents_per_s: float = 20.0
    intents_at_once: int = 500
    same_within_s: float = 30.0  # datagrams of one exchange, and the same question, are one try
    remembered: int = 4096
    files: FileLimits = field(default_factory=FileLimits)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the recorder is told; a JSON file."""

    intents: Path
    pid_file: Path
    user: str
    gateway: IPv4Address
    pool: IPv4Network
    limits: Limits = field(default_factory=Limits)

    def as_text(self) -> str:
        return json.dumps(asdict(self), default=str, indent=1) + "\n"

    @classmethod
    def parse(cls, text: str) -> Settings:
        """The inverse of `as_text`."""
        data = json.loads(text)
        limits = data["limits"]
        return cls(
            intents=Path(data["intents"]),
            pid_file=Path(data["pid_file"]),
            user=data["user"],
            gateway=IPv4Address(data["gateway"]),
            pool=IPv4Network(data["pool"]),
            limits=Limits(**limits | {"files": FileLimits(**limits["files"])}),
        )


class Sockets:
    """All that need rights to be opened. `answers` sends datagrams from any address and port."""

    def __init__(self) -> None:
        self.tcp = _bound(socket.SOCK_STREAM, PORT)
        self.udp = _bound(socket.SOCK_DGRAM, PORT)
        self.names_tcp = _bound(socket.SOCK_STREAM, NAMES_PORT)
        self.names_udp = _bound(socket.SOCK_DGRAM, NAMES_PORT)
        self.answers = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.answers.setblocking(False)
        self.udp.setsockopt(socket.SOL_IP, _IP_RECVORIGDSTADDR, 1)


@dataclass(slots=True)
class Connection:
    """One that a guest opened. `unsent` is left to be sent; `is_over` when only the end is waited for."""

    socket: socket.socket
    source: str
    destination: str
    port: int
    talk: Conversation
    silent_at: float
    ends_at: float
    received: int = 0
    unsent: bytes = b""
    is_over: bool = False


class Journal:
    """Writes intents down, within the limits."""

    def __init__(self, files: IntentFiles, names: Names, limits: Limits) -> None:
        self._files = files
        self._names = names
        self._rate = Rate(limits.intents_per_s, limits.intents_at_once)
        self._recent = Recent(limits.same_within_s, limits.remembered)
        self._dropped = 0
        self._told_drops_at = 0.0

    def tell(self, what: Understood, source: str, destination: str, port: int) -> None:
        """Write one intent, unless the same question was written lately."""
        source = what.source or source
        if what.kind is IntentKind.DNS and not self.is_new((source, what.host, what.details["type"])):
            return
        if not self._rate.admits(time.monotonic()):
            self.drop()
            return
        host = self._names.name_of(IPv4Address(destination)) or what.host
        intent = Intent(
            0, time.time(), what.kind, source, destination, port, host, what.details, what.first_bytes
        )
        if not self._files.add(intent):
            self.drop()

    def is_new(self, key: tuple[object, ...]) -> bool:
        """Whether there was nothing of the kind lately."""
        return self._recent.is_new(key, time.monotonic())

    def drop(self) -> None:
        """Count a try that is not written down."""
        self._dropped += 1

    @property
    def has_drops(self) -> bool:
        return self._dropped > 0

    def tell_drops(self, *, now: bool = False) -> None:
        """Write down how many were dropped, once a second."""
        if not self._dropped or (not now and time.monotonic() - self._told_drops_at < _DROPS_EVERY_S):
            return
        self._told_drops_at = time.monotonic()
        details = {"count": str(self._dropped)}
        if self._files.add(Intent(0, time.time(), IntentKind.DROPPED, "", "", 0, details=details)):
            self._dropped = 0


class Recorder:
    """Serves the sockets until it is told to end."""

    def __init__(self, sockets: Sockets, journal: Journal, names: Names, settings: Settings) -> None:
        self._sockets = sockets
        self._journal = journal
        self._names = names
        self._gateway = str(settings.gateway)
        self._limits = settings.limits
        self._connections: dict[int, Connection] = {}
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
        for connection in list(self._connections.values()):
            self._hang_up(connection)
        self._journal.tell_drops(now=True)

    def _end(self, _: Events) -> None:
        self._is_told_to_end = True

    def _patience_s(self) -> float | None:
        due = [min(c.silent_at, c.ends_at) for c in self._connections.values()]
        wait_s = max(0.0, min(due) - time.monotonic()) if due else None
        if self._journal.has_drops:
            return _DROPS_EVERY_S if wait_s is None else min(wait_s, _DROPS_EVERY_S)
        return wait_s

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        for connection in list(self._connections.values()):
            if now >= connection.ends_at or (connection.is_over and now >= connection.silent_at):
                self._hang_up(connection)
            elif now >= connection.silent_at:
                connection.silent_at = now + connection.talk.patience_s
                self._react(connection, connection.talk.fall_silent())
        self._journal.tell_drops()

    # TCP

    def _accept_guests(self, _: Events) -> None:
        for opened, (source, _) in _accepted(self._sockets.tcp):
            destination, port = opened.getsockname()
            self._begin(opened, source, destination, port)

    def _accept_dnsmasq(self, _: Events) -> None:
        for opened, (source, _) in _accepted(self._sockets.names_tcp):
            self._begin(opened, source, self._gateway, _DNS)

    def _begin(self, opened: socket.socket, source: str, destination: str, port: int) -> None:
        of_the_same = sum(connection.source == source for connection in self._connections.values())
        if (
            len(self._connections) >= self._limits.connections
            or of_the_same >= self._limits.connections_of_one
        ):
            # Reset at once, so that the kernel keeps nothing of it either.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            opened.close()
            self._journal.drop()
            return
        opened.setblocking(False)
        is_guest = source != LOOPBACK
        talk, first = conversation.begin(port, self._answer if is_guest else self._answer_dnsmasq)
        now = time.monotonic()
        ends_at = now + self._limits.connection_s
        connection = Connection(opened, source, destination, port, talk, now + talk.patience_s, ends_at)
        self._connections[opened.fileno()] = connection
        self._selector.register(opened, selectors.EVENT_READ, lambda events: self._attend(connection, events))
        self._react(connection, first)

    def _attend(self, connection: Connection, events: Events) -> None:
        if events & selectors.EVENT_WRITE and not self._send(connection):
            return
        if not events & selectors.EVENT_READ:
            return
        try:
            data = connection.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        connection.received += len(data)
        if not data or connection.received > self._limits.connection_bytes:
            self._hang_up(connection)
        elif not connection.is_over:
            connection.silent_at = time.monotonic() + connection.talk.patience_s
            self._react(connection, connection.talk.hear(data))

    def _react(self, connection: Connection, reaction: Reaction) -> None:
        for what in reaction.understood:
            self._tell(connection, what)
        connection.unsent += reaction.answer
        if reaction.closes:
            # What the guest still sends is read away: closing before that would take our answer from it.
            connection.is_over = True
            connection.silent_at = time.monotonic() + _DRAIN_S
        self._send(connection)

    def _send(self, connection: Connection) -> bool:
        """Send what can be sent now, and the end after the last of it; False if the connection is gone."""
        try:
            sent = connection.socket.send(connection.unsent) if connection.unsent else 0
            connection.unsent = connection.unsent[sent:]
            if connection.is_over and not connection.unsent:
                connection.socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up(connection)
            return False
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        key = self._selector.get_key(connection.socket)
        if key.events != events:
            self._selector.modify(connection.socket, events, key.data)
        return True

    def _hang_up(self, connection: Connection) -> None:
        if not connection.is_over:
            connection.is_over = True
            for what in connection.talk.end():
                self._tell(connection, what)
        self._selector.unregister(connection.socket)
        del self._connections[connection.socket.fileno()]
        connection.socket.close()

    def _tell(self, connection: Connection, what: Understood) -> None:
        self._journal.tell(what, connection.source, connection.destination, connection.port)

    # Datagrams

    def _hear_guests(self, _: Events) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, ancillary, _, source = self._sockets.udp.recvmsg(_LARGEST_DATAGRAM, 64)
            except OSError:
                return
            if not ancillary:
                continue
            port, packed = struct.unpack_from("!2xH4s", ancillary[0][2])
            destination = str(IPv4Address(packed))
            if port == _DNS and self._answer_datagram(data, source, (destination, port)):
                continue
            if self._journal.is_new((source, destination, port)):
                unknown = Understood(IntentKind.UDP, first_bytes=printable(data, FIRST_BYTES))
                self._journal.tell(unknown, source[0], destination, port)

    def _answer_datagram(self, data: bytes, source: Address, destination: Address) -> bool:
        """Answer a question to any name server; False if it is none."""
        query = dns.parse_query(data)
        if query is None:
            return False
        answer = query if isinstance(query, bytes) else None
        if isinstance(query, dns.Query):
            answer, asked = self._answer(query)
            self._journal.tell(asked, source[0], *destination)
        if answer is not None:
            with contextlib.suppress(OSError):
                self._sockets.answers.sendto(_datagram(answer, destination, source), (source[0], 0))
        return True

    def _hear_dnsmasq(self, _: Events) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, source = self._sockets.names_udp.recvfrom(_LARGEST_DATAGRAM)
            except OSError:
                return
            query = dns.parse_query(data)
            answer = query if isinstance(query, bytes) else None
            if isinstance(query, dns.Query):
                answer, asked = self._answer_dnsmasq(query)
                self._journal.tell(asked, source[0], self._gateway, _DNS)
            if answer is not None:
                with contextlib.suppress(OSError):
                    self._sockets.names_udp.sendto(answer, source)

    def _answer(self, query: dns.Query) -> tuple[bytes, Understood]:
        answer, says = self._names.answer(query)
        asked = Understood(
            IntentKind.DNS,
            host=query.name,
            details={"name": query.name, "type": query.type_name, "answer": says},
        )
        return answer, asked

    def _answer_dnsmasq(self, query: dns.Query) -> tuple[bytes, Understood]:
        """dnsmasq says for whom it asks; a guest that said so itself would not be believed."""
        answer, asked = self._answer(query)
        return answer, replace(asked, source=str(query.client or ""))


def main(arguments: Sequence[str]) -> None:
    """Open what is needed, say that it serves, give up all rights, serve."""
    settings = Settings.parse(Path(arguments[0]).read_text())
    wakes, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    names = Names(settings.pool)
    for intent in intent_files.read(settings.intents, after=0, limit=sys.maxsize):
        _remember(names, intent)
    files = IntentFiles(settings.intents, settings.limits.files)
    sockets = Sockets()
    account = pwd.getpwnam(settings.user)
    settings.pid_file.write_text(f"{os.getpid()}\n")
    _give_up_rights(account, settings.limits)
    journal = Journal(files, names, settings.limits)
    Recorder(sockets, journal, names, settings).serve(wakes)
    files.close()


def _remember(names: Names, intent: Intent) -> None:
    """Let the address that was told for a name before stand for it again."""
    if intent.kind is IntentKind.DNS and intent.details.get("type") == "A" and intent.details.get("answer"):
        names.remember(intent.details["name"], IPv4Address(intent.details["answer"]))


def _give_up_rights(account: pwd.struct_passwd, limits: Limits) -> None:
    os.nice(_NICENESS)
    for kind, limit in (
        (resource.RLIMIT_NOFILE, limits.connections + 64),
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    os.chdir("/")
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


def _bound(kind: socket.SocketKind, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, kind)
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
    opened.bind((LOOPBACK, port))
    if kind is socket.SOCK_STREAM:
        opened.listen(128)
    return opened


def _accepted(listener: socket.socket) -> Sequence[tuple[socket.socket, Address]]:
    accepted = []
    with contextlib.suppress(OSError):
        for _ in range(_AT_ONCE):
            accepted.append(listener.accept())
    return accepted


def _datagram(data: bytes, source: Address, target: Address) -> bytes:
    """An IPv4 packet with a UDP datagram; the kernel fills in length and checksum."""
    udp = struct.pack("!HHHH", source[1], target[1], 8 + len(data), 0) + data
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, _UDP_PROTOCOL, 0) + addresses + udp


if __name__ == "__main__":
    main(sys.argv[1:])
