from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from forkbed.base.errors import OperationalError
from forkbed.config.log import configure_log


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    configuration = structlog.get_config()
    yield
    structlog.configure(**configuration)


def test_events_are_lines_on_standard_error_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log({})
    structlog.get_logger().warning("guest.lost", machine="a b", tries=3)
    structlog.get_logger().info("guest.found")
    written = capsys.readouterr()
    assert written.out == ""
    (line,) = written.err.splitlines()
    assert 'level=warning event=guest.lost machine="a b" tries=3' in line


def test_the_variable_lowers_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log({"FORKBED_LOG": "debug"}, default="error")
    structlog.get_logger().debug("process.started")
    assert "event=process.started" in capsys.readouterr().err


def test_an_unknown_level_is_told() -> None:
    with pytest.raises(OperationalError, match="no level"):
        configure_log({"FORKBED_LOG": "loud"})
