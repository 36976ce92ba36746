"""What a machine left in files: its serial console's output, and what QEMU said about it.

virtlogd writes both and rotates them: `NAME` is the newest part, `NAME.0` the one before, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError

_TAIL_BYTES = 64 * 1024


def read_log(path: Path, *, tail_bytes: int | None = None) -> bytes:
    """The log with its rotated parts, oldest first; only the last `tail_bytes` if that is given."""
    parts: list[bytes] = []
    missing = tail_bytes
    try:
        for part in _newest_first(path):
            with part.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(0 if missing is None else max(0, size - missing))
                parts.append(file.read())
            if missing is not None:
                missing -= len(parts[-1])
                if missing <= 0:
                    break
    except OSError as error:
        raise OperationalError(Kind.FAULT, str(path), f"cannot be read: {error.strerror}") from error
    return b"".join(reversed(parts))


def remove_log(path: Path) -> None:
    """Remove the log with its rotated parts."""
    for part in list(_newest_first(path)):
        part.unlink(missing_ok=True)


def emulator_words(path: Path, *, lines: int = 12) -> tuple[str, ...]:
    """The last lines that QEMU itself wrote, without the command line that libvirt logs at each start."""
    if not path.exists():
        return ()
    text = read_log(path, tail_bytes=_TAIL_BYTES).decode(errors="replace")
    said: list[str] = []
    for line in text.splitlines():
        if "starting up libvirt version" in line:
            said.clear()  # an earlier start's words would mislead
        elif line.strip() and not line.endswith("\\") and not line.startswith("-"):
            said.append(line.rstrip())
    return tuple(said[-lines:])


def console_words(path: Path, *, lines: int = 12) -> tuple[str, ...]:
    """The last lines of a serial console, as text without control characters."""
    if not path.exists():
        return ()
    text = read_log(path, tail_bytes=_TAIL_BYTES).decode(errors="replace")
    printable = ("".join(c for c in line if c.isprintable() or c == "\t") for line in text.splitlines())
    return tuple([line.rstrip() for line in printable if line.strip()][-lines:])


def _newest_first(path: Path) -> Iterator[Path]:
    number = 0
    if path.exists():
        yield path
    while (part := path.with_name(f"{path.name}.{number}")).exists():
        yield part
        number += 1
