"""The one place that starts processes.

Promises: a command is a list of arguments, never a shell line; every wait has a limit; the tool speaks English
(`LC_ALL=C`); a failure becomes an `OperationalError` with the end of the tool's own words; the log gets a line
that can be pasted into a shell.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

import structlog

from forkbed.base.errors import Kind, OperationalError

Argument = str | os.PathLike[str]
Process = subprocess.Popen[bytes]
Stream = int | IO[bytes] | None
Timeout = subprocess.TimeoutExpired
PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
STDOUT = subprocess.STDOUT

_SHOWN_LINES = 20
_SHOWN_CHARACTERS = 4000
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A tool's last line may be a mere pointer into its input; the line with such a word says more.
_TELLING = re.compile(r"error|fail|cannot|denied|refused|invalid|unknown|no such", re.IGNORECASE)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ran to its end. `status` is negative if a signal ended it."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode(errors="replace")

    @property
    def complaint(self) -> tuple[str, ...]:
        """The last lines of what the tool said, standard error before standard output."""
        return _complaint(self.stdout, self.stderr)


def run(
    argv: Sequence[Argument],
    *,
    timeout_s: float = 60.0,
    input: bytes | None = None,  # noqa: A002  the name that subprocess taught everybody
    accept: Collection[int] | None = (0,),
    environment: Mapping[str, str] | None = None,
    subject: str = "",
    remedy: str = "",
) -> Completed:
    """Run a command to its end and return what it wrote.

    `accept` holds the exit statuses that are no failure; None accepts all. `environment` is added to this
    process's. `subject` and `remedy` go into the error. Raises FAULT if the command cannot be started or ends
    with another status, UNREACHABLE if it takes longer than `timeout_s`; then it and all its children are killed.
    """
    words = _words(argv)
    started = time.monotonic()
    process = spawn(
        words,
        stdin=DEVNULL if input is None else PIPE,
        stdout=PIPE,
        stderr=PIPE,
        environment=environment,
        own_session=True,
    )
    with process:
        try:
            stdout, stderr = process.communicate(input, timeout=timeout_s)
        except subprocess.TimeoutExpired as expired:
            kill_group(process)
            raise OperationalError(
                Kind.UNREACHABLE,
                subject or words[0],
                f"{Path(words[0]).name} did not end within {timeout_s:g} s",
                remedy,
                details=(_command_line(words), *_complaint(expired.stdout or b"", expired.stderr or b"")),
            ) from None
        except BaseException:  # Ctrl-C too: what was started must not stay behind
            kill_group(process)
            raise
    completed = Completed(words, process.returncode, stdout, stderr)
    _log.debug(
        "process.finished",
        command=shlex.join(words),
        status=completed.status,
        took_s=round(time.monotonic() - started, 3),
    )
    if accept is not None and completed.status not in accept:
        raise failure(completed, subject=subject, remedy=remedy)
    return completed


def become(argv: Sequence[Argument]) -> NoReturn:
    """Replace this process by a command, which inherits the terminal; its exit status is then this process's.

    Raises FAULT if the command cannot be started.
    """
    words = _words(argv)
    _log.debug("process.replaced", command=shlex.join(words))
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(words[0], words, _environment(None, translate=False))
    except OSError as error:
        raise _not_started(words, error) from error


def spawn(  # noqa: PLR0913  it hands on what `Popen` takes
    argv: Sequence[Argument],
    *,
    stdin: Stream = DEVNULL,
    stdout: Stream = DEVNULL,
    stderr: Stream = DEVNULL,
    environment: Mapping[str, str] | None = None,
    pass_fds: Iterable[int] = (),
    own_session: bool = False,
    translate: bool = True,
) -> Process:
    """Start a command and return at once; the caller waits for it or ends it.

    `own_session` puts it into a session and process group of its own: it hears no interrupt from the terminal,
    outlives this process, and `kill_group` reaches its children. `translate=False` leaves the person's language
    as it is, for commands that talk to a person. Raises FAULT if it cannot be started.
    """
    words = _words(argv)
    _log.debug("process.started", command=shlex.join(words))
    try:
        return subprocess.Popen(
            words,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=_environment(environment, translate=translate),
            pass_fds=tuple(pass_fds),
            start_new_session=own_session,
        )
    except OSError as error:
        raise _not_started(words, error) from error


def failure(completed: Completed, *, subject: str = "", remedy: str = "") -> OperationalError:
    """The error that tells of a command with an unacceptable status, in the tool's own words."""
    how = f"exit status {completed.status}" if completed.status >= 0 else f"signal {-completed.status}"
    complaint = completed.complaint
    telling = [line for line in complaint if _TELLING.search(line)] or complaint
    said = f": {shorten(telling[-1].strip(), 300)}" if telling else ""
    return OperationalError(
        Kind.FAULT,
        subject or completed.argv[0],
        f"{Path(completed.argv[0]).name} failed with {how}{said}",
        remedy,
        details=(_command_line(completed.argv), *complaint),
    )


def kill_group(process: Process) -> None:
    """End a process started with `own_session` and all that it started, now, and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def in_network_namespace(namespace: Argument, argv: Sequence[Argument]) -> tuple[str, ...]:
    """The command that runs `argv` in the network namespace with this path."""
    return ("nsenter", f"--net={os.fspath(namespace)}", "--", *_words(argv))


def dying_with_parent(argv: Sequence[Argument]) -> tuple[str, ...]:
    """The command that runs `argv` so that the kernel kills it when the thread that started it ends."""
    return ("setpriv", "--pdeathsig", "KILL", "--", *_words(argv))


def last_lines(output: bytes | str) -> tuple[str, ...]:
    """The end of a tool's output, as much as belongs into an error."""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output
    lines = [line.rstrip() for line in text[-_SHOWN_CHARACTERS:].splitlines() if line.strip()]
    return tuple(lines[-_SHOWN_LINES:])


def shorten(text: str, limit: int = 1000) -> str:
    """`text`, its middle left out if it is longer than `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"


def _complaint(stdout: bytes, stderr: bytes) -> tuple[str, ...]:
    return last_lines(stderr) or last_lines(stdout)


def _command_line(words: Sequence[str]) -> str:
    return f"command: {shorten(shlex.join(words))}"


def _not_started(words: Sequence[str], error: OSError) -> OperationalError:
    if isinstance(error, FileNotFoundError):
        return OperationalError(
            Kind.FAULT, words[0], "is not installed", "`forkbed doctor` names the Debian package"
        )
    return OperationalError(Kind.FAULT, words[0], f"cannot be started: {error.strerror}")


def _words(argv: Sequence[Argument]) -> tuple[str, ...]:
    if isinstance(argv, str):
        raise TypeError("a command is a list of arguments, not a line")
    return tuple(os.fspath(word) for word in argv)


def _environment(added: Mapping[str, str] | None, *, translate: bool) -> dict[str, str]:
    environment = dict(os.environ)
    # Tools in /usr/sbin must be found also when a user's or cron's PATH leaves them out.
    present = environment.get("PATH", "").split(":")
    environment["PATH"] = ":".join(
        [entry for entry in present if entry]
        + [entry for entry in _SYSTEM_PATH.split(":") if entry not in present]
    )
    if translate:
        environment.pop("LANGUAGE", None)
        environment["LC_ALL"] = "C"
    return environment | dict(added or {})
