"""What the wiring decides by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from forkbed import wiring
from forkbed.base.errors import Kind, OperationalError
from forkbed.config.settings import Settings
from forkbed.store.database import Database


def test_a_new_database_takes_over_the_installation_of_the_lost_one(tmp_path: Path) -> None:
    first = Database(tmp_path / "forkbed.db", wiring._kept_draw(tmp_path))
    known = first.installation_id()
    first.close()
    for path in tmp_path.glob("forkbed.db*"):
        path.unlink()
    assert Database(tmp_path / "forkbed.db", wiring._kept_draw(tmp_path)).installation_id() == known


def test_two_controllers_never_share_a_state_directory(tmp_path: Path) -> None:
    with (
        wiring._alone(tmp_path / "lock"),
        pytest.raises(OperationalError) as caught,
        wiring._alone(tmp_path / "lock"),
    ):
        pass
    assert caught.value.kind is Kind.CONFLICT


def test_a_simulated_installation_needs_no_host(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", runtime_dir=tmp_path / "run")
    with wiring.installation(settings, simulate=True) as controller:
        assert controller.about()["simulated"] is True
        assert {name for image in controller.images() for name in image.names} == {
            "micro:latest",
            "debian-12:latest",
        }
    assert list(tmp_path.iterdir()) == []
