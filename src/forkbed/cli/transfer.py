"""Copy between this machine and guests: tar streams through `exec`, so that any size, tree and mode goes.

The guest needs a POSIX shell and tar (busybox's will do). A stream from a guest is not trusted: nothing is
written outside the target, through links, or as anything but files, directories and links.
"""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from posixpath import basename
from typing import BinaryIO, cast

from forkbed.api.client import Client
from forkbed.api.client.streams import GuestConnection
from forkbed.api.frames import FRAME_BYTES, Channel
from forkbed.base.errors import Kind, OperationalError
from forkbed.cli.targets import GuestPath
from forkbed.cli.untar import Extraction
from forkbed.ports.guests import CommandRequest

_MISSING = 66  # the exit status of scripts for a place that is not there
_NEEDS_SOURCE = f'[ -e "$1" ] || [ -L "$1" ] || {{ ls -d -- "$1" >&2; exit {_MISSING}; }}\n'
_NEEDS_DIRECTORY = f'd=$(dirname -- "$1"); [ -d "$d" ] || {{ ls -d -- "$d" >&2; exit {_MISSING}; }}\n'
# Says first whether the source goes into the target or takes its name, then unpacks there. A target with a
# slash at its end is meant to be a directory.
_RECEIVE = f"""{_NEEDS_DIRECTORY}
case $1 in */) [ -d "$1" ] || {{ echo "there is no directory $1" >&2; exit {_MISSING}; }} ;; esac
if [ -d "$1" ]; then cd -- "$1" && echo into; else cd -- "$d" && echo as; fi || exit 1
exec tar -xpof -
"""
_SEND = f'{_NEEDS_SOURCE}cd -- "$(dirname -- "$1")" && exec tar -cf - "./$(basename -- "$1")"'
_WRITE = f'{_NEEDS_DIRECTORY}exec cat >"$1"'
_READ = f'{_NEEDS_SOURCE}exec cat <"$1"'
_JOIN_S = 5.0
_COMPLAINT_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Remote:
    """Whose files in the guest. `tell` gets what the way in cannot do, and what is left out."""

    client: Client
    user: str
    tell: Callable[[str], None]

    @contextmanager
    def script(self, text: str, place: GuestPath) -> Iterator[GuestScript]:
        """Run a shell script in the guest with the path as its argument; leaving early kills it."""
        request = CommandRequest(("sh", "-c", text, "forkbed", place.path), user=self.user)
        name = place.machine
        with self.client.open_command(name.system, name.machine, request) as stream:
            if stream.notice:
                self.tell(f"{name} over {stream.via}: {stream.notice}")
            yield GuestScript(stream, place)


class GuestScript:
    """A running script. One thread reads its output; `feed` writes its input in another."""

    def __init__(self, stream: GuestConnection, place: GuestPath) -> None:
        self._stream = stream
        self._place = place
        self._output = stream.output()
        self._complaint = b""

    def chunks(self) -> Iterator[bytes]:
        """Its standard output, piece by piece. Raises NOT_FOUND or FAULT at the end if it failed."""
        for channel, data in self._output:
            if channel is Channel.OUTPUT:
                yield data
            else:
                self._complaint = (self._complaint + data)[-_COMPLAINT_BYTES:]
        status = self._stream.exit_status
        if status:
            brief = f"the copy failed in the machine with exit status {status}"
            raise OperationalError(
                Kind.NOT_FOUND if status == _MISSING else Kind.FAULT,
                f"{self._place.machine}:{self._place.path}",
                "there is no such place in the machine" if status == _MISSING else brief,
                details=tuple(self._complaint.decode(errors="replace").splitlines()),
            )

    def first_line(self) -> str:
        """The first line of its output, which must be alone in it so far."""
        line = b""
        for chunk in self.chunks():
            line += chunk
            if line.endswith(b"\n"):
                break
        return line.decode(errors="replace").strip()

    def feed(self, produce: Callable[[Sink], None]) -> None:
        """Let `produce` write all of its input, and wait for its end.

        Raises what `produce` raised, or FAULT with the script's words if that failed.
        """
        failures: list[BaseException] = []

        def run() -> None:
            try:
                produce(Sink(self._stream))
                self._stream.close_input()
            except BrokenPipeError:
                return  # the script has ended: it says why
            except (OSError, OperationalError) as error:
                failures.append(error)
                self._stream.leave()

        producer = threading.Thread(target=run, daemon=True)
        producer.start()
        try:
            for _ in self.chunks():
                continue
        finally:
            producer.join(_JOIN_S)
        for failure in failures:
            raise failure


class Sink(io.RawIOBase):
    """The input of a script as a file to write to."""

    def __init__(self, stream: GuestConnection) -> None:
        self._stream = stream

    def write(self, data: object) -> int:
        """Send it all. Raises `BrokenPipeError` when the script has ended."""
        content = bytes(cast(bytes, data))
        if not self._stream.write(content):
            raise BrokenPipeError
        return len(content)


class Source(io.RawIOBase):
    """Chunks as a file to read from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """Exactly `size` bytes, fewer at the end."""
        pieces = [self._rest]
        length = len(self._rest)
        while length < size and (chunk := next(self._chunks, None)) is not None:
            pieces.append(chunk)
            length += len(chunk)
        whole = b"".join(pieces)
        self._rest = whole[size:]
        return whole[:size]


def upload(remote: Remote, source: Path, target: GuestPath) -> None:
    """A local file or directory into the guest. Raises NOT_FOUND or INVALID for what cannot be read."""
    if not source.exists() and not source.is_symlink():
        raise OperationalError(Kind.NOT_FOUND, str(source), "there is no such file or directory")
    with remote.script(_RECEIVE, target) as script:
        name = source.resolve().name if script.first_line() == "into" else basename(target.path)

        def produce(sink: Sink) -> None:
            with tarfile.open(mode="w|", fileobj=sink, format=tarfile.GNU_FORMAT, bufsize=FRAME_BYTES) as tar:
                try:
                    tar.add(source, arcname=f"./{name}", filter=_packable(remote))
                except OSError as error:
                    if isinstance(error, BrokenPipeError):
                        raise
                    raise OperationalError(
                        Kind.INVALID, str(error.filename or source), f"cannot be read: {error.strerror}"
                    ) from error

        script.feed(produce)


def _packable(remote: Remote) -> Callable[[tarfile.TarInfo], tarfile.TarInfo | None]:
    def choose(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if member.isreg() or member.isdir() or member.issym() or member.islnk():
            return member
        remote.tell(f"left out, neither file nor directory: {member.name}")
        return None

    return choose


def download(remote: Remote, source: GuestPath, target: Path, *, into: bool) -> None:
    """A file or directory of the guest to this machine. With `into`, `target` has to be a directory."""
    if into and not target.is_dir():
        raise OperationalError(Kind.NOT_FOUND, str(target), "there is no such directory", f"mkdir {target}")
    directory, name = (target, "") if target.is_dir() else (target.parent, target.name)
    if not directory.is_dir():
        raise OperationalError(
            Kind.NOT_FOUND, str(directory), "there is no such directory", f"mkdir -p {directory}"
        )
    with remote.script(_SEND, source) as script:
        extraction = Extraction(directory, name, remote.tell)
        with _unpacking(script, source) as tar:
            try:
                for member in tar:
                    extraction.take(tar, member)
            except OSError as error:
                raise OperationalError(
                    Kind.FAULT, str(error.filename or target), f"cannot be written: {error.strerror}"
                ) from error
        extraction.finish()


def copy_between(remote: Remote, source: GuestPath, target: GuestPath) -> None:
    """From one guest to another, through this machine but not onto its disk."""
    with remote.script(_SEND, source) as origin, remote.script(_RECEIVE, target) as destination:
        name = "" if destination.first_line() == "into" else basename(target.path)

        def produce(sink: Sink) -> None:
            with (
                _unpacking(origin, source) as incoming,
                tarfile.open(
                    mode="w|", fileobj=sink, format=tarfile.GNU_FORMAT, bufsize=FRAME_BYTES
                ) as outgoing,
            ):
                for member in incoming:
                    top, _, rest = member.name.removeprefix("./").partition("/")
                    member.name = "/".join([".", name or top, *([rest] if rest else [])])
                    if member.islnk():
                        link = member.linkname.removeprefix("./").partition("/")[2]
                        member.linkname = "/".join([".", name or top, link])
                    outgoing.addfile(member, incoming.extractfile(member) if member.isreg() else None)

        destination.feed(produce)


def send_stream(remote: Remote, source: BinaryIO, target: GuestPath) -> None:
    """A local stream to one file of the guest."""

    def produce(sink: Sink) -> None:
        while data := source.read(FRAME_BYTES):
            sink.write(data)

    with remote.script(_WRITE, target) as script:
        script.feed(produce)


def receive_stream(remote: Remote, source: GuestPath, target: BinaryIO) -> None:
    """One file of the guest to a local stream."""
    with remote.script(_READ, source) as script:
        for chunk in script.chunks():
            target.write(chunk)
    target.flush()


@contextmanager
def _unpacking(script: GuestScript, place: GuestPath) -> Iterator[tarfile.TarFile]:
    """The guest's tar stream, read to its end. What the guest's tar says comes before that it is broken."""
    chunks = script.chunks()
    try:
        with tarfile.open(mode="r|", fileobj=cast(BinaryIO, Source(chunks)), bufsize=FRAME_BYTES) as tar:
            yield tar
    except tarfile.TarError as error:
        for _ in chunks:
            continue
        raise OperationalError(
            Kind.FAULT, f"{place.machine}:{place.path}", f"what came is no tar stream: {error}"
        ) from error
    for _ in chunks:
        continue
