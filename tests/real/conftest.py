"""What tests with real guests share: one lab for the whole run, gone afterwards whatever happens.

The lab is bound to the pytest process: the kernel kills it with pytest, also by kill -9. Its files are then swept
at the start of the next run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkbed import lab as labs
from forkbed.config.log import configure_log
from forkbed.config.settings import load_settings
from forkbed.core.images.recipe import RecipeSpec
from forkbed.drivers.images.builder import ImageBuilder
from forkbed.ports.progress import Silence
from tests.real.bench_host import BenchHost, make_host, make_network
from tests.unit.drivers import samples

PREFIX = "test-"
HERE = Path(__file__).parent
SHARED_PORTS = ("test_survival.py", "test_system.py")  # both publish the same ports of the real loopback


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything below this directory needs the real thing; tests that share a lab or a port share a worker."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.real)
            place = item.path.relative_to(HERE).parts[0]
            item.add_marker(pytest.mark.xdist_group("ports" if place in SHARED_PORTS else place))


def pytest_collection_finish(session: pytest.Session) -> None:
    """A pytest whose node ids xdist cannot mark would run them side by side, and they would fail now and then."""
    grouped = all("@" in item.nodeid for item in session.items if item.path.is_relative_to(HERE))
    if getattr(session.config.option, "loadgroup", False) and not grouped:
        raise pytest.UsageError("pytest-xdist does not group tests with this pytest: pin another one")


@pytest.fixture(scope="session", autouse=True)
def quiet_log() -> None:
    configure_log(os.environ)


@pytest.fixture(scope="session")
def lab_dir() -> Path:
    """Where labs are kept on this machine."""
    return load_settings(os.environ).lab_dir


@pytest.fixture(scope="session")
def lab(lab_dir: Path) -> Iterator[labs.Lab]:
    """A running one-host lab with libvirt, shared by all tests of the run."""
    with labs.temporary(lab_dir, PREFIX) as running:
        yield running


@pytest.fixture(scope="session")
def serving_lab(lab: labs.Lab) -> labs.Lab:
    """The lab with `forkbed serve` running in it."""
    lab.start_serve()
    return lab


@pytest.fixture(scope="session")
def micro_image() -> Path:
    """The micro image's disk, from the build cache or built now."""
    builder = ImageBuilder(load_settings(os.environ).cache_dir / "images", None)
    return builder.build(RecipeSpec("micro", "micro"), None, Silence()).path


@pytest.fixture(scope="session")
def bench_host(lab: labs.Lab, micro_image: Path) -> Iterator[BenchHost]:
    """The lab with a network for the machines `boss` and `ops`, and the drivers on it."""
    make_network(lab, [samples.machine("boss", number=1), samples.machine("ops", number=2)])
    host = make_host(lab, micro_image)
    yield host
    host.hypervisor.close()
