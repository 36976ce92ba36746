"""How a failure is told: one exception, a closed set of kinds, each with its exit and HTTP status.

A foreign error (libvirt, a tool, the operating system) is translated where it happens, with `from`;
a bug is never translated and keeps its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What sort of failure it is; decides the exit status and the HTTP status."""

    INVALID = "invalid"  # what was asked cannot be right
    NOT_FOUND = "not-found"  # what was named does not exist
    CONFLICT = "conflict"  # it contradicts the present state
    BUSY = "busy"  # somebody else is changing it right now
    UNREACHABLE = "unreachable"  # no answer: says nothing about the thing itself
    UNSAFE = "unsafe"  # refused because data would be lost
    FAULT = "fault"  # a tool or the host failed

    @property
    def exit_status(self) -> int:
        """The exit status of a command that ends with this kind of error."""
        return _EXIT_STATUS[self]

    @property
    def http_status(self) -> int:
        """The HTTP status of an answer with this kind of error."""
        return _HTTP_STATUS[self]


_EXIT_STATUS = {
    Kind.INVALID: 2,
    Kind.NOT_FOUND: 3,
    Kind.CONFLICT: 4,
    Kind.BUSY: 5,
    Kind.UNREACHABLE: 6,
    Kind.UNSAFE: 7,
    Kind.FAULT: 8,
}
_HTTP_STATUS = {
    Kind.INVALID: 422,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.BUSY: 423,
    Kind.UNREACHABLE: 503,
    Kind.UNSAFE: 412,
    Kind.FAULT: 500,
}


class OperationalError(Exception):
    """Something could not be done for a reason outside this program.

    `subject` is the thing concerned ("machine boss-ops/boss"), `brief` says what could not be done and
    why, `remedy` what to do about it ("" if there is nothing), `details` holds further lines such as a
    tool's own words.
    """

    def __init__(
        self,
        kind: Kind,
        subject: str,
        brief: str,
        remedy: str = "",
        *,
        details: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{subject}: {brief}" if subject else brief)
        self.kind = kind
        self.subject = subject
        self.brief = brief
        self.remedy = remedy
        self.details = details

    def as_dict(self) -> dict[str, object]:
        """The error as plain data, the inverse of `from_dict`."""
        return {
            "kind": str(self.kind),
            "subject": self.subject,
            "brief": self.brief,
            "remedy": self.remedy,
            "details": list(self.details),
        }

    @classmethod
    def from_dict(cls, data: dict[str, object]) -> OperationalError:
        """The error that `as_dict` described."""
        details = data.get("details") or ()
        assert isinstance(details, (list, tuple))
        return cls(
            Kind(str(data["kind"])),
            str(data["subject"]),
            str(data["brief"]),
            str(data["remedy"]),
            details=tuple(str(line) for line in details),
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a document: where (a path such as `machines.boss.memory`), what, what instead.

    `path` is a tuple of mapping keys and sequence indices from the document's root. `on_key` says that
    the key itself is wrong rather than its value.
    """

    path: tuple[str | int, ...]
    wrong: str
    right: str = ""
    on_key: bool = False
