"""Parameters that several commands have. Light: commands import it before they ask for anything."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.units import parse_duration_s

Message = Annotated[str, Parameter(name=["--message", "-m"], help="A note on what it is for.")]
Expires = Annotated[
    str | None,
    Parameter(help="Remove it after this time, such as 2h or 7d, unless something needs it."),
]
NoWait = Annotated[bool, Parameter(name="--no-wait", help="Only start the operation and print its id.")]
IfRevision = Annotated[
    int | None, Parameter(name="--if-revision", help="Only if the system is at this revision.")
]


def seconds(option: str, text: str | None) -> float | None:
    """The seconds of an option's time span. Raises INVALID for what is none."""
    if text is None:
        return None
    try:
        span_s = parse_duration_s(text)
    except ValueError as error:
        raise OperationalError(Kind.INVALID, f"{option} {text}", str(error), f"{option} 2h") from error
    if span_s <= 0:
        raise OperationalError(Kind.INVALID, f"{option} {text}", "the time must be above 0", f"{option} 2h")
    return span_s
