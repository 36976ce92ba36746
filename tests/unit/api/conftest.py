from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from forkbed.api.client import Client
from tests.unit.api.fake import FakeController
from tests.unit.api.running import running_server


@pytest.fixture
def guest_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "guest"
    directory.mkdir()
    return directory


@pytest.fixture
def controller(guest_directory: Path) -> FakeController:
    return FakeController(guest_directory)


@pytest.fixture
def socket(controller: FakeController, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "api.sock"
    with running_server(controller, path):
        yield path


@pytest.fixture
def client(socket: Path) -> Iterator[Client]:
    with Client(socket, command="forkbed test --all") as client:
        yield client
