"""A machine that is let go on may do so by itself at the same moment."""

from __future__ import annotations

import libvirt
import pytest

from forkbed.drivers.libvirt.freezing import let_go_on


class Domain:
    """Refuses to be resumed, in the state that it is in."""

    def __init__(self, state: int) -> None:
        self._state = state

    def resume(self) -> None:
        raise libvirt.libvirtError("Requested operation is not valid: domain is already running")

    def state(self) -> tuple[int, int]:
        return self._state, 0


def test_a_machine_that_went_on_by_itself_has_gone_on() -> None:
    let_go_on(Domain(libvirt.VIR_DOMAIN_RUNNING))


def test_a_machine_that_still_stands_is_an_error() -> None:
    with pytest.raises(libvirt.libvirtError):
        let_go_on(Domain(libvirt.VIR_DOMAIN_PAUSED))
