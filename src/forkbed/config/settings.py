"""Where Forkbed keeps things on this host and how it reaches libvirt.

One value each from, in this order: an environment variable, the configuration file (TOML), the default.
Read once at the border (the command line, the server's start) and handed down; nothing below reads the environment.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.units import parse_duration_s

DEFAULT_CONFIG_PATH = Path("/etc/forkbed/config.toml")
CONFIG_VARIABLE = "FORKBED_CONFIG"
_DEFAULT_POOL = ipaddress.IPv4Network("198.19.0.0/16")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one installation on one host. Every field `x` may be given as `FORKBED_X`."""

    state_dir: Path = Path("/var/lib/forkbed")
    """What must survive a reboot: database, sidecars, images, disks."""
    runtime_dir: Path = Path("/run/forkbed")
    """Sockets, pid files, seeds of running machines: gone after a reboot."""
    cache_dir: Path = Path("/var/cache/forkbed")
    """What can be made again: package archives, build results, proofs of the doctor."""
    lab_dir: Path = Path("/var/lib/forkbed-lab")
    """One directory for each lab."""
    libvirt_uri: str = "qemu:///system"
    transit_pool: ipaddress.IPv4Network = _DEFAULT_POOL
    """Addresses between a network's service namespace and the host; RFC 2544's range meets no real network."""
    build_network_namespace: Path | None = None
    """The network namespace in which image builds reach Debian's archive; None: where Forkbed runs."""
    kept_in_memory: timedelta = timedelta(minutes=10)
    """How long the generation before the present one waits in memory, where a revert takes a second or two. Whoever
    has to go back at once finds out within minutes; after that its memory is worth more to others."""

    @property
    def api_socket(self) -> Path:
        """The Unix socket on which `forkbed serve` listens."""
        return self.runtime_dir / "api.sock"


def load_settings(environment: Mapping[str, str]) -> Settings:
    """The settings under `environment` (usually `os.environ`).

    Raises INVALID for an unreadable or wrong configuration file or value. A missing file is no error unless
    FORKBED_CONFIG names it.
    """
    given = environment.get(CONFIG_VARIABLE)
    path = Path(given) if given else DEFAULT_CONFIG_PATH
    values = {name: (str(path), value) for name, value in _read(path, must_exist=bool(given)).items()}
    for name in _PARSERS:
        variable = variable_of(name)
        if variable in environment:
            values[name] = (variable, environment[variable])
    return Settings(**{name: _parse(name, source, value) for name, (source, value) in values.items()})


def variable_of(name: str) -> str:
    """The environment variable that overrides the setting `name`."""
    return f"FORKBED_{name.upper()}"


def _read(path: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if not must_exist:
            return {}
        raise OperationalError(
            Kind.INVALID,
            str(path),
            "there is no such configuration file",
            f"correct or unset {CONFIG_VARIABLE}",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    import tomllib  # here, because every command reads the settings, and most find no file

    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _unreadable(path, error) from error
    unknown = sorted(values.keys() - _PARSERS.keys())
    if unknown:
        raise OperationalError(
            Kind.INVALID,
            str(path),
            f"unknown setting: {', '.join(unknown)}",
            f"known settings are {', '.join(_PARSERS)}",
        )
    return values


def _unreadable(path: Path, error: Exception) -> OperationalError:
    return OperationalError(Kind.INVALID, str(path), f"cannot be read: {error}", "correct the file")


def _parse(name: str, source: str, value: object) -> Any:
    try:
        if not isinstance(value, str):
            raise ValueError(f"it is not text: {value!r}")
        return _PARSERS[name](value)
    except ValueError as error:
        raise OperationalError(
            Kind.INVALID,
            source,
            f"the setting {name} is wrong: {error}",
            "give it as described in docs/reference",
        ) from error


def _absolute_path(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError(f"not an absolute path: {text!r}")
    return path


def _optional_path(text: str) -> Path | None:
    return _absolute_path(text) if text else None


def _uri(text: str) -> str:
    if "://" not in text:
        raise ValueError(f"not a libvirt URI such as qemu:///system: {text!r}")
    return text


def _pool(text: str) -> ipaddress.IPv4Network:
    network = ipaddress.IPv4Network(text)
    if network.prefixlen > 28:
        raise ValueError(f"{text} has room for fewer than 8 networks; a /28 or larger is needed")
    return network


def _duration(text: str) -> timedelta:
    return timedelta(seconds=parse_duration_s(text))


_PARSERS: dict[str, Callable[[str], object]] = {
    "state_dir": _absolute_path,
    "runtime_dir": _absolute_path,
    "cache_dir": _absolute_path,
    "lab_dir": _absolute_path,
    "libvirt_uri": _uri,
    "transit_pool": _pool,
    "build_network_namespace": _optional_path,
    "kept_in_memory": _duration,
}
assert _PARSERS.keys() == {field.name for field in fields(Settings)}
