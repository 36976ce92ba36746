"""Installations in memory: one whose steps run one by one, and one whose steps run in threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulated.installation import Installation


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


@pytest.fixture
def parallel(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path, parallel=True)
    yield made
    made.end()
