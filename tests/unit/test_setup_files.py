"""The set-up files say what they must: everything pinned, no registry addresses, nothing that starts a service."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVICES = {"libvirt-daemon-system", "libvirt-daemon-config-network", "dnsmasq", "nfs-kernel-server"}


def lines(name: str) -> list[str]:
    text = (ROOT / name).read_text()
    return [line for raw in text.splitlines() if (line := raw.split("#")[0].strip())]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_line_of_the_lock_is_an_exact_pin() -> None:
    odd = [
        line for line in lines("requirements.lock") if not re.fullmatch(r"[A-Za-z0-9._-]+==[^\s/;@]+", line)
    ]
    assert odd == []


def test_the_lock_covers_every_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {canonical(re.split(r"[<>=~ \[]", entry)[0]) for entry in declared}
    pinned = {canonical(line.split("==")[0]) for line in lines("requirements.lock")}
    assert names - pinned == set()


def test_what_is_pinned_for_building_is_what_the_lock_installs() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert [line for line in lines("requirements.lock") if line.startswith("setuptools==")] == build


def test_debian_packages_are_names_listed_once_and_none_starts_a_service() -> None:
    packages = lines("setup/apt-packages.txt")
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", package) for package in packages)
    assert len(packages) == len(set(packages))
    assert SERVICES.isdisjoint(packages)
