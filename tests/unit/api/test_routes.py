from __future__ import annotations

from forkbed.api.client import Client
from tests.unit.api.fake import FakeController


def test_list(client: Client, controller: FakeController) -> None:
    assert client.systems() == controller.systems()
