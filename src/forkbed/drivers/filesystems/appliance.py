"""XFS and btrfs through libguestfs: its own small machine mounts the file system, with a kernel of its own.

Slower than the readers here: starting takes 3 s, 11 s under emulation, twice for each version, and every name is
listed. But only what differs in the listing is read. The disk reaches the machine through `qemu-nbd`, which is told
the layers, so that no path in a layer's header is followed; writes, such as a journal's replay, go to a scratch
file of libguestfs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from forkbed.base.errors import OperationalError
from forkbed.core.diffs.limits import Limits
from forkbed.core.diffs.names import raw, shown
from forkbed.core.diffs.records import FileSystemDifference, Reading
from forkbed.core.diffs.rules import Selection
from forkbed.drivers import processes
from forkbed.drivers.filesystems.comparing import Versions, compare_trees
from forkbed.drivers.filesystems.contents import Nearness
from forkbed.drivers.filesystems.listing import (
    Details,
    ListedTree,
    Row,
    details_script,
    parse_details,
    parse_rows,
    quoted,
)
from forkbed.drivers.filesystems.problems import Budget, Unreadable
from forkbed.drivers.filesystems.summaries import PACKAGE_LISTS, changed_packages, changed_services
from forkbed.ports.disks import DiskVersion

_TOOLS = ("virt-ls", "guestfish", "qemu-nbd")
_INSTALL = "install libguestfs-tools on the host (`apt-get install --no-install-recommends libguestfs-tools`)"
_BYTES_PER_NAME = 512
_SOCKET_TIMEOUT_S = 20.0
_LAST_WORDS_S = 10.0  # from the end of the output to the end of the process
_PARTITION = re.compile(r"partition (\d+)")
_VOLUME = re.compile(r"logical volume ([^/]+)/(.+)")


@dataclass(frozen=True, slots=True)
class Appliance:
    """How libguestfs is to be used. `cache` keeps its machine between runs; `has_kvm` as it was proven by booting."""

    cache: Path
    has_kvm: Callable[[], bool]

    def compare(
        self,
        one: FileSystemDifference,
        versions: Sequence[DiskVersion],
        selection: Selection,
        limits: Limits,
        subject: str,
    ) -> FileSystemDifference:
        """The file system `one`, which nothing else could read, in its versions: base, left, right."""
        missing = [tool for tool in _TOOLS if shutil.which(tool, path=_search_path()) is None]
        if missing:
            return _unreadable(
                one, f"{one.kind} is read with libguestfs, and {missing[0]} is missing: {_INSTALL}"
            )
        try:
            with tempfile.TemporaryDirectory(prefix="forkbed-diff-") as scratch:
                return _Run(self, Path(scratch), one, limits, subject).compare(versions, selection)
        except Unreadable as reason:
            return _unreadable(one, str(reason))
        except OperationalError as error:
            return _unreadable(one, f"libguestfs failed: {error.brief}")

    def environment(self) -> Mapping[str, str]:
        """What libguestfs's tools are told."""
        return {
            "LIBGUESTFS_BACKEND": "direct",
            "LIBGUESTFS_BACKEND_SETTINGS": "" if self.has_kvm() else "force_tcg",
            "LIBGUESTFS_CACHEDIR": str(self.cache),
        }


@dataclass(frozen=True, slots=True)
class _Run:
    """One file system of one comparison."""

    appliance: Appliance
    scratch: Path
    one: FileSystemDifference
    limits: Limits
    subject: str

    def compare(self, versions: Sequence[DiskVersion], selection: Selection) -> FileSystemDifference:
        self.appliance.cache.mkdir(parents=True, exist_ok=True)
        known: dict[DiskVersion, Mapping[bytes, Row]] = {}
        for version in versions:
            if version not in known:
                known[version] = self._rows(version)
        base, left, right = (known[version] for version in versions)
        differing = {
            path
            for path in {*base, *left, *right}
            if not (base.get(path) == left.get(path) == right.get(path))
        }
        if len(differing) > self.limits.listed:
            raise Unreadable(f"more than {self.limits.listed} of its files differ")
        numbers = {path: number for number, path in enumerate(sorted({*base, *left, *right}))}
        trees: dict[DiskVersion, ListedTree] = {}
        for version in versions:
            if version not in trees:
                trees[version] = self._tree(version, known[version], numbers, differing)
        of_base, of_left, of_right = (trees[version] for version in versions)
        return self._compared(Versions(of_base, of_left, of_right, Nearness(None), Nearness(None)), selection)

    def _compared(self, versions: Versions, selection: Selection) -> FileSystemDifference:
        budget = Budget(self.limits.seconds, self.limits.entries, self.limits.depth)
        found = compare_trees(versions, selection.matcher(), self.limits, budget)
        packages = changed_packages(versions, self.limits, found.problems)
        services = changed_services(versions, found.problems)
        return FileSystemDifference(
            place=self.one.place,
            kind=self.one.kind,
            label="",
            reading=Reading.PARTLY if found.problems else Reading.COMPARED,
            counts=found.counts,
            files=found.files,
            hidden=found.hidden,
            unlisted=found.unlisted,
            packages=packages,
            services=services,
            problems=tuple(found.problems),
        )

    def _rows(self, version: DiskVersion) -> Mapping[bytes, Row]:
        with self._exported(version) as disk:
            argv = (
                *("virt-ls", "--format=raw", "-a", disk, "-m", f"{_device(self.one.place)}:/:ro"),
                *("-lR", "--csv", "--uids", "--extra-stats", "--times", "--time-t", "/"),
            )
            rows = parse_rows(self._said(argv))
        if len(rows) > self.limits.entries:
            raise Unreadable(f"it holds more than {self.limits.entries} names")
        return rows

    def _tree(
        self,
        version: DiskVersion,
        rows: Mapping[bytes, Row],
        numbers: Mapping[bytes, int],
        differing: set[bytes],
    ) -> ListedTree:
        asked = [(numbers[path], path, rows[path].facts.kind) for path in sorted(differing & rows.keys())]
        details: Mapping[int, Details] = {}
        held: dict[int, bytes] = {}
        if asked:
            lists = [path for path in PACKAGE_LISTS if path in differing and path in rows]
            script = [
                "run",
                f"mount-options ro {_device(self.one.place)} /",
                *details_script(asked),
                *(f"-download {quoted(b'/' + path)} {self.scratch}/held-{numbers[path]}" for path in lists),
            ]
            (self.scratch / "script").write_text("".join(f"{line}\n" for line in script))
            with self._exported(version) as disk:
                argv = ("guestfish", "--ro", "--format=raw", "-a", disk, "-f", self.scratch / "script")
                details = parse_details(self._said(argv))
            for path in lists:
                fetched = self.scratch / f"held-{numbers[path]}"
                if fetched.exists():
                    held[numbers[path]] = fetched.read_bytes()
                    fetched.unlink()
        suspects = frozenset(numbers[path] for path in differing)
        return ListedTree(rows, numbers, suspects, details, held)

    def _said(self, argv: Sequence[processes.Argument]) -> bytes:
        """What a tool of libguestfs writes, as much as the limits allow."""
        limit = self.limits.entries * _BYTES_PER_NAME
        with (self.scratch / "stderr").open("w+b") as complaints:
            process = processes.spawn(
                argv,
                stdout=processes.PIPE,
                stderr=complaints,
                environment=self.appliance.environment(),
                own_session=True,
            )
            timer = Timer(self.limits.seconds, processes.kill_group, (process,))
            timer.start()
            try:
                assert process.stdout is not None
                with process.stdout as stream:
                    said = stream.read(limit + 1)
            finally:
                timer.cancel()
                with contextlib.suppress(processes.Timeout):
                    process.wait(_LAST_WORDS_S)
                if process.poll() is None:
                    processes.kill_group(process)
            complaints.seek(0)
            told = complaints.read()
        if len(said) > limit:
            raise Unreadable(f"it holds more than {self.limits.entries} names")
        if process.returncode < 0:
            raise Unreadable(f"libguestfs did not list it within {self.limits.seconds:g} s")
        words = [str(word) for word in argv]
        if process.returncode:
            raise processes.failure(
                processes.Completed(tuple(words), process.returncode, b"", told), subject=self.subject
            )
        return said

    @contextlib.contextmanager
    def _exported(self, version: DiskVersion) -> Iterator[str]:
        """The address at which the version of the disk can be read while the block runs."""
        socket = self.scratch / "disk.sock"
        options = json.dumps(_opened(version))
        process = processes.spawn(
            (
                "qemu-nbd",
                "--read-only",
                "--persistent",
                "--shared=4",
                f"--socket={socket}",
                f"json:{options}",
            ),
            own_session=True,
        )
        try:
            deadline = time.monotonic() + _SOCKET_TIMEOUT_S
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Unreadable("qemu-nbd does not serve the disk")
                time.sleep(0.02)
            yield f"nbd:///?socket={socket}"
        finally:
            processes.kill_group(process)
            socket.unlink(missing_ok=True)


def _opened(version: DiskVersion) -> dict[str, object]:
    """How QEMU is to open the layers: exactly these, whatever their headers say."""
    options: dict[str, object] | None = None
    for layer in reversed(version.layers):
        file = {"driver": "file", "filename": layer.path}
        if layer.format == "raw":
            options = {"driver": "raw", "file": file}
        else:
            options = {"driver": layer.format, "file": file, "backing": options}
    assert options is not None
    return options


def _device(place: str) -> str:
    """What the place is called within libguestfs's machine."""
    if found := _PARTITION.fullmatch(place):
        return f"/dev/sda{found[1]}"
    if found := _VOLUME.fullmatch(place):
        names = [os.fsdecode(raw(name)) for name in found.groups()]
        if all(re.fullmatch(r"[A-Za-z0-9_.+-]+", name) for name in names):
            return "/dev/" + "/".join(names)
        raise Unreadable(f"its logical volume has an unusual name: {shown(place.encode())}")
    return "/dev/sda"


def _search_path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin"


def _unreadable(one: FileSystemDifference, reason: str) -> FileSystemDifference:
    return FileSystemDifference(one.place, one.kind, one.label, Reading.UNREADABLE, problems=(reason,))
