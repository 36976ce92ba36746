"""One system of real guests for all tests of forks; each test leaves it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from forkbed import lab as labs
from tests.real.forks.original import Site
from tests.real.installation import prepare


@pytest.fixture(scope="package")
def original(lab_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A lab of its own with the system up and its machines talking."""
    with labs.temporary(lab_dir, "test-forks-") as lab:
        directory = tmp_path_factory.mktemp("forks")
        prepare(lab, directory)
        site = Site(lab, directory)
        site.begin()
        yield site


@pytest.fixture
def site(original: Site) -> Iterator[Site]:
    """The system without any forks and snapshots; afterwards again."""
    yield original
    original.remove_branches()
    original.assert_unharmed()


@pytest.fixture(scope="module")
def twins(original: Site) -> Iterator[Site]:
    """The system and two forks of one instant of it, `twin-1` and `twin-2`, for tests that change none for good."""
    original.fork("twin", "--count", "2", "--message", "two of one")
    yield original
    original.remove_branches()
    original.assert_unharmed()
