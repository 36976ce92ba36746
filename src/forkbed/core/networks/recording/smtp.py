"""The server's side of SMTP (RFC 5321): takes every message, and keeps who sent it to whom about what. Pure.

It greets first, so a client of another protocol in which the server speaks first shows itself by what it answers.
Whoever logs in is let in; neither the names and passwords nor the messages are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from forkbed.core.networks.intents import IntentKind
from forkbed.core.networks.recording.text import printable
from forkbed.core.networks.recording.understood import FIRST_BYTES, SHOWN_BYTES, Reaction, Understood

PORTS = frozenset({25, 587, 2525})
GREETING = b"220 recorder ESMTP, the way out of a fork: nothing is delivered\r\n"

_PATIENCE_S = 60.0
_PATIENCE_WITH_STRANGERS_S = 10.0
_LONGEST_LINE = 2048
_MOST_LINES = 1000
_MOST_RECIPIENTS = 20
_LONGEST_ADDRESS = 320
_LONGEST_HEADERS = 8 << 10
_MESSAGE_END = b"\r\n.\r\n"
_ADDRESS = re.compile(rb"(?:FROM|TO):\s*<?([^>\s]*)", re.IGNORECASE)
_SUBJECT = re.compile(rb"\nsubject:[ \t]*([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)", re.IGNORECASE)


class SmtpDialogue:
    """One connection of a mail client, from behind the greeting."""

    def __init__(self) -> None:
        self._unread = b""
        self._said = b""  # by a client that may be no mail client
        self._lines = 0
        self._secrets = 0  # so many lines belong to a log-in
        self._is_mail = False
        self._has_told = False
        self._message: _Message | None = None
        self._begin("")

    @property
    def patience_s(self) -> float:
        """A mail client may think for a while."""
        return _PATIENCE_S if self._is_mail else _PATIENCE_WITH_STRANGERS_S

    def hear(self, data: bytes) -> Reaction:
        """Commands, or a piece of a message."""
        if not self._is_mail:
            self._said = (self._said + data)[:FIRST_BYTES]
        self._unread += data
        answers: list[bytes] = []
        understood: list[Understood] = []
        while True:
            if self._message is not None:
                rest = self._message.take(self._unread)
                self._unread = rest or b""
                if rest is None:
                    break
                understood.append(self._mail(self._message.subject()))
                self._begin("")
                answers.append(b"250 written down, not delivered\r\n")
                continue
            line, newline, rest = self._unread.partition(b"\n")
            if len(line) > _LONGEST_LINE or self._lines > _MOST_LINES:
                return self._close([*answers, b"421 too much\r\n"], understood)
            if not newline:
                break
            self._unread = rest
            self._lines += 1
            answer = self._obey(line.strip())
            answers.append(answer)
            if answer in _LAST_ANSWERS:
                return self._close(answers, understood)
        return Reaction(b"".join(answers), tuple(understood))

    def fall_silent(self) -> Reaction:
        """Not waited for any longer."""
        return self._close([b"421 nothing came\r\n"] if self._is_mail else [], [])

    def end(self) -> tuple[Understood, ...]:
        """What was said without a message, or as no mail client would."""
        if not self._is_mail:
            return (Understood(IntentKind.TCP, first_bytes=printable(self._said, FIRST_BYTES)),)
        return () if self._has_told and not self._is_open else (self._mail(""),)

    def _close(self, answers: list[bytes], understood: list[Understood]) -> Reaction:
        return Reaction(b"".join(answers), (*understood, *self.end()), closes=True)

    def _begin(self, sender: str) -> None:
        """Forget the message before, and begin one if there is a sender."""
        self._sender, self._is_open = sender, bool(sender)
        self._recipients: list[str] = []
        self._more_recipients = 0
        self._message = None

    def _mail(self, subject: str) -> Understood:
        self._has_told = True
        more = [f"and {self._more_recipients} more"] if self._more_recipients else []
        recipients = ", ".join([*self._recipients, *more])
        return Understood(
            IntentKind.SMTP, details={"sender": self._sender, "recipients": recipients, "subject": subject}
        )

    def _obey(self, line: bytes) -> bytes:
        if self._secrets:
            self._secrets -= 1
            return _ASKS_PASSWORD if self._secrets else _LOGGED_IN
        verb = line[:8].partition(b" ")[0].upper()
        command = _COMMANDS.get(verb)
        if command is None:
            return _NOT_KNOWN if self._is_mail else _NO_MAIL_CLIENT
        self._is_mail = True
        return command if isinstance(command, bytes) else command(self, line)

    def _mail_from(self, line: bytes) -> bytes:
        self._begin(_address(line) or "<>")
        return _OK

    def _rcpt_to(self, line: bytes) -> bytes:
        if len(self._recipients) < _MOST_RECIPIENTS:
            self._recipients.append(_address(line))
        else:
            self._more_recipients += 1
        return _OK

    def _data(self, _: bytes) -> bytes:
        self._message = _Message()
        return b"354 go on, and end with a dot alone on its line\r\n"

    def _reset(self, _: bytes) -> bytes:
        self._begin("")
        return _OK

    def _auth(self, line: bytes) -> bytes:
        words = line.split()
        method, is_bare = b"".join(words[1:2]).upper(), len(words) == 2
        if method == b"LOGIN":
            self._secrets = 2 if is_bare else 1
            return _ASKS_NAME if is_bare else _ASKS_PASSWORD
        if method == b"PLAIN":
            self._secrets = 1 if is_bare else 0
            return b"334 \r\n" if is_bare else _LOGGED_IN
        return b"504 not offered\r\n"


class _Message:
    """What follows DATA, to a dot alone on its line; only the beginning is kept."""

    def __init__(self) -> None:
        self._kept = b""
        self._tail = b"\r\n"  # a dot on the very first line is an end too

    def take(self, data: bytes) -> bytes | None:
        """Take another piece; what follows the end of the message, None if it has not ended."""
        text, end, rest = (self._tail + data).partition(_MESSAGE_END)
        if not end:
            unsure = len(_MESSAGE_END) - 1
            text, self._tail = text[:-unsure], text[-unsure:]
        self._kept += text[: _LONGEST_HEADERS - len(self._kept)]
        return rest if end else None

    def subject(self) -> str:
        """What the message says it is about."""
        found = _SUBJECT.search(self._kept.partition(b"\r\n\r\n")[0])
        return printable(b" ".join(found[1].split()), SHOWN_BYTES) if found else ""


def _address(line: bytes) -> str:
    found = _ADDRESS.search(line)
    return printable(found[1], _LONGEST_ADDRESS) if found else ""


_OK = b"250 ok\r\n"
_NOT_KNOWN = b"502 not known here\r\n"
_NO_MAIL_CLIENT = b"500 not understood\r\n"
_BYE = b"221 bye\r\n"
_LAST_ANSWERS = frozenset({_NO_MAIL_CLIENT, _BYE})
_LOGGED_IN = b"235 welcome\r\n"
_ASKS_NAME = b"334 VXNlcm5hbWU6\r\n"  # "Username:" and "Password:", as clients expect them
_ASKS_PASSWORD = b"334 UGFzc3dvcmQ6\r\n"
_COMMANDS: Mapping[bytes, bytes | Callable[[SmtpDialogue, bytes], bytes]] = {
    b"EHLO": b"250-recorder\r\n250-SIZE 26214400\r\n250-8BITMIME\r\n250-AUTH PLAIN LOGIN\r\n250 PIPELINING\r\n",
    b"HELO": b"250 recorder\r\n",
    b"MAIL": SmtpDialogue._mail_from,
    b"RCPT": SmtpDialogue._rcpt_to,
    b"DATA": SmtpDialogue._data,
    b"RSET": SmtpDialogue._reset,
    b"AUTH": SmtpDialogue._auth,
    b"STARTTLS": b"454 no TLS here\r\n",
    b"VRFY": b"252 perhaps\r\n",
    b"NOOP": _OK,
    b"QUIT": _BYE,
}
