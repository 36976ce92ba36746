"""Which files of the client's disk a document (manifest, recipe, steps) names: the client sends them along.

Looks at the YAML only and passes over anything odd: what is wrong with a document is told by who reads it.
Light on purpose (no pydantic): the command line imports it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from forkbed.config.variables import expander, to_data
from forkbed.config.yamlsource import read_yaml


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Paths as written in the manifest, variables filled in, relative to the manifest's directory."""

    files: frozenset[str]
    secrets: frozenset[str]


def local_files(text: str, file_name: str, variables: Mapping[str, str] | None = None) -> LocalFiles:
    """The files and secrets that the manifest in `text` wants. Raises `ManifestInvalid` if it is not YAML."""
    if not _may_name_files(text):
        return LocalFiles(frozenset(), frozenset())
    source = read_yaml(text, file_name)
    expand, _ = expander(source.root, variables or {})
    data = to_data(source.root, expand, verbatim="variables")
    files: set[str] = set()
    secrets: set[str] = set()
    for machine in _values(_entry(data.value, "machines")):
        ssh = _entry(machine, "ssh")
        keys = [ssh, *_values(_entry(ssh, "users"))]
        files |= set(_sources(_values(_entry(machine, "files"))))
        files |= set(_sources([_entry(machine, "cloud_init")]))
        files |= {source for owner in keys for source in _sources(_values(_entry(owner, "keys")))}
        secrets |= set(_sources(_values(_entry(machine, "secrets"))))
    return LocalFiles(frozenset(files), frozenset(secrets))


def recipe_files(text: str, file_name: str) -> frozenset[str]:
    """The files that the image recipe in `text` wants. Raises `ManifestInvalid` if it is not YAML."""
    data = to_data(read_yaml(text, file_name).root)
    return frozenset(_sources(_values(_entry(data.value, "files"))))


def steps_files(text: str, file_name: str) -> frozenset[str]:
    """The files and scripts that the steps in `text` want. Raises `ManifestInvalid` if it is not YAML."""
    data = to_data(read_yaml(text, file_name).root)
    steps = _values(_entry(data.value, "steps"))
    scripts = {script for step in steps if isinstance(script := _entry(step, "script"), str)}
    pushed = {source for step in steps for source in _sources(_values(_entry(step, "push")))}
    return frozenset(scripts | pushed)


def _may_name_files(text: str) -> bool:
    """Whether `source` can be a key at all: reading a thousand machines to find none costs a person 0.3 s."""
    return "source" in text or "\\" in text  # a backslash may spell the word


def _entry(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _values(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _sources(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        source = _entry(entry, "source")
        if isinstance(source, str):
            yield source
