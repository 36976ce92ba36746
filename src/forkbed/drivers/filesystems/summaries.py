"""What a change of files means for a Debian system: packages and services."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from forkbed.core.diffs.entries import EntryKind
from forkbed.core.diffs.limits import Limits
from forkbed.core.diffs.names import shown
from forkbed.core.diffs.packages import installed, package_changes
from forkbed.core.diffs.records import PackageChange, ServiceChange
from forkbed.core.diffs.services import DIRECTORIES, service_changes, states
from forkbed.drivers.filesystems.comparing import Versions
from forkbed.drivers.filesystems.problems import Unreadable
from forkbed.drivers.filesystems.trees import Tree

# of a root file system, and of one that is mounted on /var or /var/lib
PACKAGE_LISTS = (b"var/lib/dpkg/status", b"lib/dpkg/status", b"dpkg/status")
_SERVICE_PREFIXES = tuple(directory[1:].encode() for directory in DIRECTORIES)

_Nodes = Callable[[Tree], Mapping[bytes, int]]


def changed_packages(versions: Versions, limits: Limits, problems: list[str]) -> tuple[PackageChange, ...]:
    """The Debian packages that differ; what cannot be read goes into `problems`."""
    for path in PACKAGE_LISTS:
        if any(tree is not None and path in tree.paths() for tree in _trees(versions)):
            break
    else:
        return ()
    if not _may_differ(versions, lambda tree: {path: tree.paths().get(path, 0)}):
        return ()
    try:
        return package_changes(*(installed(_whole(tree, path, limits)) for tree in _trees(versions)))
    except Unreadable as reason:
        problems.append(f"/{shown(path)}: {reason}")
        return ()


def changed_services(versions: Versions, problems: list[str]) -> tuple[ServiceChange, ...]:
    """The services that differ in whether they are started; what cannot be read goes into `problems`."""
    if not _may_differ(versions, _service_nodes):
        return ()
    return service_changes(*(states(_links(tree, problems)) for tree in _trees(versions)))


def _trees(versions: Versions) -> tuple[Tree | None, Tree | None, Tree | None]:
    return versions.base, versions.left, versions.right


def _may_differ(versions: Versions, nodes_of: _Nodes) -> bool:
    """Whether the named nodes of a side can differ from the base's."""
    base = nodes_of(versions.base) if versions.base else {}
    for side in (versions.left, versions.right):
        if side is versions.base:
            continue
        nodes = nodes_of(side) if side else {}
        suspects = side.suspects if side else None
        if nodes != base or suspects is None or any(node in suspects for node in nodes.values()):
            return True
    return False


def _service_nodes(tree: Tree) -> Mapping[bytes, int]:
    return {path: node for path, node in tree.paths().items() if path.startswith(_SERVICE_PREFIXES)}


def _links(tree: Tree | None, problems: list[str]) -> Mapping[str, str]:
    if tree is None:
        return {}
    found = {}
    for path, node in _service_nodes(tree).items():
        try:
            facts = tree.facts(node)
        except Unreadable as reason:
            problem = f"/{shown(path)}: {reason}"
            if problem not in problems:
                problems.append(problem)
            continue
        if facts.kind is EntryKind.LINK:
            found[f"/{shown(path)}"] = shown(facts.target)
    return found


def _whole(tree: Tree | None, path: bytes, limits: Limits) -> bytes:
    node = tree.paths().get(path) if tree is not None else None
    if tree is None or node is None:
        return b""
    facts = tree.facts(node)
    if facts.kind is not EntryKind.FILE:
        return b""
    if facts.size_bytes > limits.packages_bytes:
        raise Unreadable(f"it is longer than {limits.packages_bytes} bytes")
    return tree.content(node, 0, facts.size_bytes)
