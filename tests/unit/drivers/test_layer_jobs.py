"""Jobs on the layers of a running disk: what happens when one is given up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers.libvirt import layers
from forkbed.ports.progress import Cancelled


class GivenUp:
    """Progress of an operation that is to give way."""

    def tell(self, message: str, *, done: float | None = None) -> None:
        """Nobody listens."""

    def check_cancelled(self) -> None:
        raise Cancelled


def test_a_job_that_ends_as_it_is_given_up_was_given_up() -> None:
    """Told as a failure, the fold would not be tried again for ten minutes."""
    asked: list[str] = []

    def on_domain(action: str, function: Callable[[Any], Any]) -> Any:
        asked.append(action)
        if action.startswith("end the job"):
            raise OperationalError(Kind.FAULT, "machine a", "there is no job", "")
        return "vda", ("top", "into"), {"cur": 1, "end": 2}

    with pytest.raises(Cancelled):
        layers.commit(on_domain, "machine a", "root", "top", "into", GivenUp())
    assert asked == ["look at its disk root", "end the job on root"]
