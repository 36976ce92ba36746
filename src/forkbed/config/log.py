"""Where log events go: standard error, one line each, as `key=value`; never standard output, which is for answers.

FORKBED_LOG sets the least level that is written: debug shows every command that is run, ready to be pasted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

import structlog

from forkbed.base.errors import Kind, OperationalError

LOG_VARIABLE = "FORKBED_LOG"
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_log(environment: Mapping[str, str], *, default: str = "warning") -> None:
    """Set the log up for this process. Raises INVALID if FORKBED_LOG is no level."""
    level = environment.get(LOG_VARIABLE) or default
    if level not in _LEVELS:
        raise OperationalError(
            Kind.INVALID,
            LOG_VARIABLE,
            f"{level!r} is no level of the log",
            f"use one of {', '.join(_LEVELS)}",
        )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(
                key_order=["timestamp", "level", "event"], bool_as_flag=False
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
