"""What a guest says on a connection, and what the recorder makes of it."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Sequence
from ipaddress import IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkbed.core.networks.intents import IntentKind
from forkbed.core.networks.recording import conversation, dns, http, tls
from forkbed.core.networks.recording.names import Names
from forkbed.core.networks.recording.text import printable
from forkbed.core.networks.recording.understood import FIRST_BYTES, Conversation, Reaction, Understood
from tests.unit.networks.recording.test_dns import message, wire_name

NAMES = Names(IPv4Network("198.18.128.0/17"))


def answer(query: dns.Query) -> tuple[bytes, Understood]:
    data, says = NAMES.answer(query)
    return data, Understood(IntentKind.DNS, query.name, {"answer": says})


class Told:
    """A conversation to its end: what was understood and answered."""

    def __init__(self, port: int, *pieces: bytes, silences: int = 0) -> None:
        self.talk, first = conversation.begin(port, answer)
        self.answers = [first.answer]
        self.understood: list[Understood] = []
        self.closed = False
        for piece in pieces:
            self._take(self.talk.hear(piece))
            if self.closed:
                return
        for _ in range(silences):
            if not self.closed:
                self._take(self.talk.fall_silent())
        if not self.closed:
            self.understood += self.talk.end()

    def _take(self, reaction: Reaction) -> None:
        self.answers.append(reaction.answer)
        self.understood += reaction.understood
        self.closed = reaction.closes

    @property
    def only(self) -> Understood:
        (understood,) = self.understood
        return understood


def client_hello(name: str | None) -> bytes:
    """What Python's own TLS client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if name is None:
        context.check_hostname = False
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


HELLO = client_hello("example.org")


# HTTP


@pytest.mark.parametrize(
    ("sent", "method", "host", "path"),
    [
        (b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", "GET", "example.org", "/"),
        (b"POST /a?b=c HTTP/1.0\nhOsT:example.org:8080  \n\nbody", "POST", "example.org:8080", "/a?b=c"),
        (
            b"HEAD http://u@x.org:81/p HTTP/1.1\r\nHost: proxy\r\n\r\n",
            "HEAD",
            "u@x.org:81",
            "http://u@x.org:81/p",
        ),
        (b"CONNECT x.org:443 HTTP/1.1\r\n\r\n", "CONNECT", "x.org:443", "x.org:443"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI", "", "*"),
        (b"M-SEARCH \xff\x1b HTTP/1.1\r\n\r\n", None, "", ""),
        (b"GET /\xff HTTP/1.1\r\nX: 1\r\nHost: \x1b[31m\r\n\r\n", "GET", r"\x1b[31m", r"/\xff"),
    ],
)
def test_http_requests(sent: bytes, method: str | None, host: str, path: str) -> None:
    for pieces in ([sent], [sent[i : i + 1] for i in range(len(sent))]):
        told = Told(80, *pieces, silences=2)
        if method is None:
            assert told.only.kind is IntentKind.TCP
            continue
        assert told.only.kind is IntentKind.HTTP
        assert told.only.details == {"method": method, "host": host, "path": path}
        assert told.closed
        last = told.answers[-1]
        assert last.startswith(b"HTTP/1.1 503 ")
        assert (b"This is a fork" in last) is (method != "HEAD")


def test_the_host_is_shown_without_user_and_port() -> None:
    assert Told(80, b"GET http://u:p@x.org:81/ HTTP/1.1\r\n\r\n").only.host == "x.org"


def test_a_request_that_never_ends_is_known_by_its_first_line() -> None:
    endless = [b"GET /x HTTP/1.1\r\n", *[b"X: " + b"y" * 1000 + b"\r\n"] * 20]
    assert Told(80, *endless).closed
    assert Told(80, *endless).only.details["path"] == "/x"
    silent = Told(80, b"GET /x HTTP/1.1\r\nHost: y\r\n", silences=1)
    assert silent.closed and silent.only.details["host"] == "y"
    gone = Told(80, b"GET /x HTTP/1.1\r\n")
    assert not gone.closed and gone.only.details["path"] == "/x"
    assert Told(80, b"GET /x HT").only == Understood(IntentKind.TCP, first_bytes="GET /x HT")
    assert Told(80, b"GET /" + b"x" * http.LONGEST_HEAD).only.kind is IntentKind.TCP


def test_paths_and_hosts_are_cut() -> None:
    told = Told(80, b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: " + b"h" * 3000 + b"\r\n\r\n")
    assert all(len(value) <= 500 for value in told.only.details.values())


# TLS


@pytest.mark.parametrize(("name", "shown"), [("Example.org", "example.org"), (None, "")])
def test_tls_greetings(name: str | None, shown: str) -> None:
    hello = client_hello(name)
    for pieces in ([hello], [hello[i : i + 7] for i in range(0, len(hello), 7)]):
        told = Told(443, *pieces)
        assert told.only == Understood(IntentKind.TLS, host=shown, details={"host": shown})
        assert told.answers[-1] == tls.REFUSAL and told.closed


def test_a_greeting_in_several_records() -> None:
    fragments = HELLO[5:]
    cut = [fragments[:3], fragments[3:50], fragments[50:]]
    sent = b"".join(b"\x16\x03\x01" + struct.pack("!H", len(part)) + part for part in cut)
    assert Told(443, sent).only.host == "example.org"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff\x01\xff\xff\xff",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
        b"\x16\x03\x01\x00\x08\x01\x00\x00\x04\x03\x03\x00\x00",
    ],
)
def test_broken_greetings_are_first_bytes(sent: bytes) -> None:
    assert Told(443, sent, silences=2).only == Understood(
        IntentKind.TCP, first_bytes=printable(sent, FIRST_BYTES)
    )


@settings(deadline=None)
@given(st.binary(max_size=400), st.integers(0, 120), st.binary(max_size=8))
def test_damaged_greetings_are_taken(tail: bytes, at: int, patch: bytes) -> None:
    for sent in (HELLO[:at] + patch + HELLO[at + len(patch) :], HELLO[:at] + tail):
        assert isinstance(tls.server_name(sent), str | tls.Greeting)


# SMTP


def test_a_mail_is_taken_with_sender_recipients_and_subject() -> None:
    sent = (
        b"EHLO guest\r\nMAIL FROM:<a@x.org> SIZE=10\r\nRCPT TO:<b@y.org>\r\nrcpt to: c@z.org\r\nDATA\r\n"
        b"From: a\r\nSubject: one\r\n two\r\nX: 1\r\n\r\nSubject: not this\r\n..\r\n.\r\nQUIT\r\n"
    )
    for pieces in (
        [sent],
        [sent[i : i + 1] for i in range(len(sent))],
        [sent[i : i + 13] for i in range(0, 400, 13)],
    ):
        told = Told(25, *pieces)
        assert told.only.kind is IntentKind.SMTP
        assert told.only.details == {
            "sender": "a@x.org",
            "recipients": "b@y.org, c@z.org",
            "subject": "one two",
        }
        codes = [line[:3] for line in b"".join(told.answers).splitlines()]
        assert codes == b"220 250 250 250 250 250 250 250 250 354 250 221".split()
        assert told.closed


def test_mails_after_one_another_and_one_that_was_not_sent() -> None:
    told = Told(
        587,
        b"HELO guest\r\nMAIL FROM:<>\r\nRCPT TO:<b@y.org>\r\nDATA\r\n.\r\n"
        b"MAIL FROM:<a@x.org>\r\nRSET\r\nMAIL FROM:<c@x.org>\r\n",
    )
    assert [understood.details["sender"] for understood in told.understood] == ["<>", "c@x.org"]


@pytest.mark.parametrize(
    "login",
    [
        b"AUTH PLAIN AGEAc2VjcmV0\r\n",
        b"AUTH PLAIN\r\nAGEAc2VjcmV0\r\n",
        b"AUTH LOGIN\r\nYQ==\r\nc2VjcmV0\r\n",
        b"auth login YQ==\r\nc2VjcmV0\r\n",
        b"AUTH CRAM-MD5\r\n",
    ],
)
def test_who_logs_in_is_let_in_and_passwords_are_not_kept(login: bytes) -> None:
    told = Told(587, b"EHLO guest\r\n", login, b"MAIL FROM:<a@x.org>\r\nQUIT\r\n")
    assert told.only.details["sender"] == "a@x.org"
    assert "c2VjcmV0" not in repr(told.understood)
    assert b"235 " in b"".join(told.answers) or b"CRAM" in login


def test_a_mail_connection_that_only_says_hello() -> None:
    assert Told(25, b"EHLO guest\r\nSTARTTLS\r\n").only.kind is IntentKind.SMTP
    assert Told(25, b"EHLO guest\r\n", silences=1).only.kind is IntentKind.SMTP


def test_mail_on_another_port_is_found_by_waiting() -> None:
    talk, first = conversation.begin(4025, answer)
    assert not first.answer
    assert talk.fall_silent().answer.startswith(b"220 ")
    assert talk.hear(b"EHLO x\r\n").answer.startswith(b"250")
    reaction = talk.hear(b"MAIL FROM:<a@x>\r\nQUIT\r\n")
    assert reaction.closes and reaction.understood[0].kind is IntentKind.SMTP


def test_who_waits_and_is_no_mail_client_is_tcp() -> None:
    for port, silences in ((3306, 2), (25, 1)):
        assert Told(port, silences=silences).only == Understood(IntentKind.TCP)
        assert Told(port, silences=silences).closed
    talk, _ = conversation.begin(21, answer)
    talk.fall_silent()
    reaction = talk.hear(b"USER anonymous\r\n")
    assert reaction.closes
    assert reaction.understood == (Understood(IntentKind.TCP, first_bytes=r"USER anonymous\r\n"),)


def test_what_a_mail_client_may_say_is_bounded() -> None:
    recipients = b"".join(b"RCPT TO:<%d@%s>\r\n" % (n, b"x" * 400) for n in range(300))
    told = Told(25, b"EHLO x\r\nMAIL FROM:<a@x>\r\n" + recipients + b"QUIT\r\n")
    assert told.only.details["recipients"].endswith("and 280 more")
    assert len(told.only.details["recipients"]) < 20 * 330
    assert Told(25, b"EHLO x\r\n", b"NOOP\r\n" * 2000).closed
    assert Told(25, b"EHLO x\r\n", b"N" * 3000).closed
    assert Told(25, b"N" * 3000).only.kind is IntentKind.TCP
    subject = b"Subject: " + b"s" * 20000
    told = Told(25, b"EHLO x\r\nMAIL FROM:<a@x>\r\nDATA\r\n" + subject, b"y" * (1 << 20), b"\r\n.\r\n")
    assert len(told.only.details["subject"]) == 500


# DNS over TCP


def test_questions_over_tcp() -> None:
    question = message(wire_name("example.org"))
    framed = len(question).to_bytes(2, "big") + question
    told = Told(53, framed[:1], framed[1:] + framed)
    assert [understood.host for understood in told.understood] == ["example.org"] * 2
    answers = b"".join(told.answers)
    assert len(answers) == 2 * (2 + int.from_bytes(answers[:2], "big"))
    assert Told(53, *[framed] * 200).closed, "not for ever"
    assert Told(53, b"\0\x05hello").only == Understood(IntentKind.TCP, first_bytes=r"\x00\x05hello")


# Everything else


def test_others_are_known_by_their_first_bytes() -> None:
    assert (
        Told(5432, b"\0\0\0\x08\x04\xd2\x16\x2f", silences=1).only.first_bytes
        == r"\x00\x00\x00\x08\x04\xd2\x16/"
    )
    told = Told(9, b"x" * 1000)
    assert told.closed
    assert told.only == Understood(IntentKind.TCP, first_bytes="x" * FIRST_BYTES)
    assert Told(9).only == Understood(IntentKind.TCP)


PROTOCOLS = (
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01",
    b"EHLO x\r\n",
    b"MAIL FROM:<a>\r\n",
    b"DATA\r\n",
    b"\r\n.\r\n",
    b"\0\x0c",
)


@settings(deadline=None)
@given(
    st.sampled_from([25, 53, 80, 443]),
    st.lists(st.one_of(st.sampled_from(PROTOCOLS), st.binary(max_size=300)), max_size=12),
    st.integers(0, 3),
)
def test_any_bytes_are_taken_and_every_connection_comes_to_something(
    port: int, pieces: Sequence[bytes], silences: int
) -> None:
    told = Told(port, *pieces, silences=silences)
    assert told.understood
    for understood in told.understood:
        texts = [understood.host, understood.first_bytes, *understood.details.values()]
        assert all(text.isascii() and text.isprintable() for text in texts)
        assert sum(map(len, texts)) < 16 << 10


def test_every_conversation_has_patience() -> None:
    talks: list[Conversation] = [conversation.begin(port, answer)[0] for port in (25, 53, 80)]
    assert all(talk.patience_s > 0 for talk in talks)


def test_bytes_are_shown_harmlessly() -> None:
    assert printable(b"a\\b\r\n\t\x00\x7f\xff", 100) == r"a\\b\r\n\t\x00\x7f\xff"
    assert printable(b"abc", 2) == "ab"
    assert printable(bytes(range(256)), 256).isprintable()
