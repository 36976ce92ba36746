"""Which Debian packages differ, from dpkg's own list (`var/lib/dpkg/status`). Pure."""

from __future__ import annotations

from collections.abc import Mapping

from forkbed.core.diffs.names import shown
from forkbed.core.diffs.records import PackageChange
from forkbed.core.diffs.threeway import standing

_ABSENT = ("not-installed", "config-files")


def installed(status: bytes) -> Mapping[str, str]:
    """Name (with ":arch" where several architectures are installed) to version, of all that is installed.

    A package in another state than "installed" ("half-configured") has it behind its version.
    """
    found: dict[tuple[str, str], str] = {}
    for paragraph in status.split(b"\n\n"):
        fields = _fields(paragraph)
        name, version = fields.get(b"package", b""), fields.get(b"version", b"")
        state = fields.get(b"status", b"").split(b" ")[-1].decode("utf-8", "replace")
        if not name or not version or state in _ABSENT:
            continue
        told = shown(version) if state == "installed" else f"{shown(version)} ({shown(state.encode())})"
        found[shown(name), shown(fields.get(b"architecture", b""))] = told
    architectures: dict[str, int] = {}
    for name_, _ in found:
        architectures[name_] = architectures.get(name_, 0) + 1
    return {
        name_ if architectures[name_] == 1 else f"{name_}:{architecture}": version_
        for (name_, architecture), version_ in found.items()
    }


def package_changes(
    base: Mapping[str, str], left: Mapping[str, str], right: Mapping[str, str]
) -> tuple[PackageChange, ...]:
    """The packages whose version or state a side changed, by name."""
    changes = []
    for name in sorted({*base, *left, *right}):
        versions = base.get(name, ""), left.get(name, ""), right.get(name, "")
        stands = standing(*versions)
        if stands is not None:
            changes.append(PackageChange(name, stands, *versions))
    return tuple(changes)


def _fields(paragraph: bytes) -> Mapping[bytes, bytes]:
    fields = {}
    for line in paragraph.split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon and not name.startswith((b" ", b"\t")):
            fields[name.lower()] = value.strip()
    return fields
