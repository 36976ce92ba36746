"""Errors as RFC 9457 problem documents, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forkbed.api.codec import decode, encode
from forkbed.base.errors import Kind, OperationalError

PROBLEM_TYPE_PREFIX = "urn:forkbed:problem:"
PROBLEM_MEDIA_TYPE = "application/problem+json"

_TITLES = {
    Kind.INVALID: "What was asked cannot be right",
    Kind.NOT_FOUND: "What was named does not exist",
    Kind.CONFLICT: "It contradicts the present state",
    Kind.BUSY: "Somebody else is changing it right now",
    Kind.UNREACHABLE: "There was no answer",
    Kind.UNSAFE: "Refused because data would be lost",
    Kind.FAULT: "A tool or the host failed",
}
_KIND_OF_STATUS = {
    400: Kind.INVALID,
    404: Kind.NOT_FOUND,
    409: Kind.CONFLICT,
    423: Kind.BUSY,
    503: Kind.UNREACHABLE,
}


@dataclass(frozen=True, slots=True)
class ProblemDocument:
    """What went wrong (RFC 9457). `detail` says what could not be done and why, `remedy` what to do about it,
    `details` holds further lines, such as a tool's own words or every error of a manifest."""

    type: str
    title: str
    status: int
    detail: str
    kind: Kind
    subject: str
    remedy: str
    details: tuple[str, ...]


def problem_of(error: OperationalError, status: int | None = None) -> ProblemDocument:
    """The document that tells of `error`; `status` where HTTP has a more exact one than the kind's."""
    return ProblemDocument(
        type=f"{PROBLEM_TYPE_PREFIX}{error.kind}",
        title=_TITLES[error.kind],
        status=status or error.kind.http_status,
        detail=error.brief,
        kind=error.kind,
        subject=error.subject,
        remedy=error.remedy,
        details=error.details,
    )


def problem_json(error: OperationalError, status: int | None = None) -> dict[str, Any]:
    """`problem_of` as what `json.dumps` takes."""
    document: dict[str, Any] = encode(problem_of(error, status))
    return document


def error_of(document: object) -> OperationalError:
    """The error that a problem document tells of. Raises `ValueError` if it is none of ours."""
    problem = decode(ProblemDocument, document)
    return OperationalError(
        problem.kind, problem.subject, problem.detail, problem.remedy, details=problem.details
    )


def error_of_status(status: int, subject: str, brief: str) -> OperationalError:
    """The error for an answer that carries no problem document."""
    kind = _KIND_OF_STATUS.get(status, Kind.INVALID if status < 500 else Kind.FAULT)
    return OperationalError(kind, subject, brief)
