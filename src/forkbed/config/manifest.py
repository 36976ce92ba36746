"""From a manifest and its local files to a `SystemSpec`: everything wrong with it at once, at its place.

`parse_manifest` reads, fills in variables, checks shapes and single values, takes in the local files, and runs
the rules of `forkbed.core.systems.check` over all that could be read. It touches no disk: the client hands the
files in, and `forkbed.config.local_files` tells it which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from forkbed.base.errors import Problem
from forkbed.config.convert import Converter
from forkbed.config.document import check_data, locate
from forkbed.config.manifest_model import Manifest
from forkbed.config.problems import ManifestInvalid, Path
from forkbed.config.variables import Data, expander, to_data
from forkbed.config.yamlsource import Positions, read_yaml
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.core.systems.check import check_images, check_system
from forkbed.core.systems.check_networks import Unread
from forkbed.core.systems.spec import SystemSpec

_STAND_INS: dict[str, str] = {"version": "1", "system": "unnamed", "image": "unnamed"}
_PASSES = 8  # more than the document is deep: each pass takes away one level at most


@dataclass(frozen=True, slots=True)
class ParsedManifest:
    """A good manifest. `files` maps BLAKE3 to bytes, `secrets` the name in `SecretSpec` to bytes."""

    spec: SystemSpec
    files: Mapping[str, bytes]
    secrets: Mapping[str, bytes]
    file_name: str
    positions: Positions

    def refusal(self, problems: Iterable[Problem]) -> ManifestInvalid:
        """The error for problems that somebody else found in the spec, at their places in the file."""
        return ManifestInvalid(self.file_name, (locate(self.positions, problem) for problem in problems))


def parse_manifest(
    bundle: ManifestBundle, *, images: Mapping[str, int] | None = None, secrets_key: bytes = bytes(32)
) -> ParsedManifest:
    """The system that a manifest declares. Raises `ManifestInvalid` with all problems.

    `images` maps every image reference that is known to its size in bytes; None leaves images unchecked.
    `secrets_key` (32 bytes, the installation's own) keys the versions of secrets, see `Converter`.
    """
    source = read_yaml(bundle.text, bundle.file_name)
    expand, problems = expander(source.root, bundle.variables)
    data = to_data(source.root, expand, verbatim="variables")
    problems += data.problems
    read = _read(data)
    problems += read.problems
    converter = Converter(bundle, secrets_key)
    spec = None
    if read.manifest is not None:
        spec = converter.system(read.manifest)
        found = [*converter.problems, *check_system(spec, read.unread)]
        if images is not None:
            found += check_images(spec, images)
        problems += [problem for problem in found if not _within(problem.path, read.left_out)]
    positions = source.positions
    located = source.problems + [locate(positions, problem) for problem in problems]
    if located or spec is None:
        raise ManifestInvalid(bundle.file_name, located)
    return ParsedManifest(spec, converter.files, converter.secrets, bundle.file_name, positions)


@dataclass(slots=True)
class _Read:
    """What could be read of a document; `left_out` are the paths that could not."""

    manifest: Manifest | None
    problems: list[Problem]
    left_out: set[Path]
    unread: Unread


def _read(data: Data) -> _Read:
    """The manifest, or what is left of it without its bad parts, so that the rest can be checked too."""
    checked = check_data(data.value, Manifest)
    if isinstance(checked, Manifest):
        return _Read(checked, [], set(), Unread())
    problems = [problem for problem in checked if not _within(problem.path, data.unfilled)]
    networks, machines = _names(data.value, "networks"), _names(data.value, "machines")
    left_out: set[Path] = set()
    for _ in range(_PASSES):
        now: set[Path] = set()
        for problem in checked:
            if not _within(problem.path, now):
                now.add(_leave_out(data.value, problem.path))
        left_out |= now
        checked = check_data(data.value, Manifest)
        if isinstance(checked, Manifest):
            unread = Unread(networks - set(checked.networks), _touched(left_out, machines))
            # Without the section of networks nothing can be said of the machines' NICs.
            return _Read(checked if ("networks",) not in left_out else None, problems, left_out, unread)
    return _Read(None, problems, left_out, Unread())


def _leave_out(value: Any, path: Path) -> Path:
    """Remove the innermost entry on `path` that is there, or put something harmless there; returns its path."""
    if not isinstance(value, dict):
        return ()
    if path and path[-1] in _STAND_INS and len(path) in (1, 3):
        parent: Any = value
        for part in path[:-1]:
            parent = parent.get(part) if isinstance(parent, dict) else None
        if isinstance(parent, dict):
            parent[path[-1]] = _STAND_INS[str(path[-1])]
            return path
    node: Any = value
    slot: tuple[dict[str, Any], str, Path] | None = None
    for index, part in enumerate(path):
        if isinstance(node, dict) and part in node:
            slot = (node, str(part), path[: index + 1])
            node = node[part]
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        else:
            break
    if slot is None:
        return ()
    slot[0].pop(slot[1])
    return slot[2]


def _names(value: Any, section: str) -> frozenset[str]:
    entries = value.get(section) if isinstance(value, dict) else None
    return frozenset(entries) if isinstance(entries, dict) else frozenset()


def _touched(left_out: set[Path], machines: frozenset[str]) -> frozenset[str]:
    """The machines of which something was left out."""
    return machines & {str(path[1]) for path in left_out if len(path) > 1 and path[0] == "machines"}


def _within(path: Path, paths: set[Path]) -> bool:
    """Whether `path` or something above it is among `paths`."""
    return bool(paths) and any(path[:length] in paths for length in range(len(path) + 1))
