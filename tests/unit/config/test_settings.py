from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.config.settings import Settings, load_settings


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_an_environment_variable_beats_the_file_and_the_file_beats_the_default(config: Path) -> None:
    config.write_text('state_dir = "/file/state"\ncache_dir = "/file/cache"\n')
    settings = load_settings({"FORKBED_CONFIG": str(config), "FORKBED_STATE_DIR": "/variable/state"})
    assert settings.state_dir == Path("/variable/state")
    assert settings.cache_dir == Path("/file/cache")
    assert settings.runtime_dir == Settings().runtime_dir


def test_values_become_what_they_mean(config: Path) -> None:
    config.write_text('transit_pool = "198.18.4.0/24"\nbuild_network_namespace = ""\nkept_in_memory = "2h"\n')
    settings = load_settings({"FORKBED_CONFIG": str(config), "FORKBED_RUNTIME_DIR": "/run/x"})
    assert settings.transit_pool == IPv4Network("198.18.4.0/24")
    assert settings.build_network_namespace is None
    assert settings.kept_in_memory == timedelta(hours=2)
    assert settings.api_socket == Path("/run/x/api.sock")


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("FORKBED_STATE_DIR", "relative", "not an absolute path"),
        ("FORKBED_TRANSIT_POOL", "198.18.0.1/24", "host bits"),
        ("FORKBED_TRANSIT_POOL", "198.18.0.0/30", "fewer than 8"),
        ("FORKBED_KEPT_IN_MEMORY", "10", "a time needs a number and a unit"),
        ("FORKBED_LIBVIRT_URI", "system", "not a libvirt URI"),
    ],
)
def test_a_wrong_value_names_its_source(variable: str, value: str, told: str) -> None:
    with pytest.raises(OperationalError, match=told) as caught:
        load_settings({variable: value})
    assert caught.value.kind is Kind.INVALID
    assert caught.value.subject == variable


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("state_dir = 3\n", "not text"),
        ("stat_dir = 'x'\n", "unknown setting: stat_dir"),
        ("= =", "cannot be read"),
    ],
)
def test_a_wrong_file_is_named(config: Path, text: str, told: str) -> None:
    config.write_text(text)
    with pytest.raises(OperationalError, match=told) as caught:
        load_settings({"FORKBED_CONFIG": str(config)})
    assert caught.value.subject == str(config)


def test_a_file_that_was_named_must_exist(config: Path) -> None:
    with pytest.raises(OperationalError, match="no such configuration file"):
        load_settings({"FORKBED_CONFIG": str(config)})
