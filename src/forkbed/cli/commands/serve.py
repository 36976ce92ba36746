"""`serve`: run the server, here or detached."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NoReturn

from cyclopts import Parameter

from forkbed.api.client import Client
from forkbed.base.errors import Kind, OperationalError
from forkbed.cli.invocation import current
from forkbed.cli.output import emit, say
from forkbed.config.log import configure_log
from forkbed.config.settings import Settings, load_settings

_START_S = 90.0
_POLL_S = 0.1
_LOG_LIMIT_BYTES = 16 * 1024 * 1024
_LOG_LINES = 20
_SWITCH_S = 0.001  # threads that mostly wait for the host should not wait 5 ms more for one that computes


def serve(
    *,
    detach: Annotated[
        bool, Parameter(help="Return when it answers; it goes on in a session of its own.")
    ] = False,
    simulate: Annotated[bool, Parameter(help="Pretend to be a host: no hypervisor is needed.")] = False,
) -> int:
    """Run the server that does the work, until it is told to end (SIGTERM, Ctrl-C).

    Machines go on without it, and so do operations when it comes back. It listens on a Unix socket only; root and
    the group `forkbed` may use it.

    ```
    forkbed serve --detach
    forkbed serve --simulate --socket /tmp/try.sock
    ```
    """
    settings = load_settings(os.environ)
    configure_log(os.environ, default="warning" if detach else "info")
    if detach:
        return _detach(settings, simulate=simulate)
    return _serve(settings, simulate=simulate)


def _serve(settings: Settings, *, simulate: bool) -> int:
    from forkbed.api.server.context import Context
    from forkbed.api.server.serving import listen
    from forkbed.api.server.serving import serve as answer
    from forkbed.api.server.threads import StreamThreads
    from forkbed.api.server.transfers import empty_transfers
    from forkbed.wiring import installation

    socket = current().socket_path
    sys.setswitchinterval(_SWITCH_S)
    _end_on_signals()
    with ExitStack() as stack:
        stack.enter_context(_only_server(socket))
        transfers = settings.state_dir / "transfers"
        if simulate:  # leaves nothing behind, and needs no directory of its own
            transfers = Path(stack.enter_context(TemporaryDirectory(prefix="forkbed-")))
        controller = stack.enter_context(installation(settings, simulate=simulate))
        empty_transfers(transfers, controller.wanted_uploads)
        listener = listen(socket)
        stack.callback(socket.unlink, missing_ok=True)
        context = Context(controller, StreamThreads(), transfers)
        answer(context, listener, lambda: say(f"forkbed serve answers at {socket}"))
    return 0


def _end_on_signals() -> None:
    """Make SIGTERM and SIGINT leave by way of every `with`, before, while and after the server runs."""

    def end(_number: int, _frame: object) -> NoReturn:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


@contextmanager
def _only_server(socket: Path) -> Iterator[None]:
    """Hold the pid file beside the socket while inside. Raises CONFLICT if another server holds it."""
    path = socket.with_suffix(".pid")
    try:
        socket.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise OperationalError(
            Kind.FAULT,
            str(error.filename),
            f"cannot be made: {error.strerror}",
            "run it as root, or with --socket in a directory of your own",
        ) from error
    with contextlib.closing(os.fdopen(descriptor, "r+")) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OperationalError(
                Kind.CONFLICT,
                "forkbed serve",
                f"it runs already (pid {file.read().strip() or 'unknown'})",
                "use it, or end it first",
            ) from None
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _detach(settings: Settings, *, simulate: bool) -> int:
    from forkbed.drivers.processes import STDOUT, spawn

    socket = current().socket_path
    about = _ask(socket)
    if about is not None:
        return _tell(socket, about, "runs already")
    log = _open_log(socket.with_suffix(".log") if simulate else settings.state_dir / "serve.log")
    argv = [sys.executable, "-m", "forkbed.cli.main", "serve", "--socket", str(socket)]
    with log.open("ab") as output:
        process = spawn(
            [*argv, *(["--simulate"] if simulate else [])],
            stdout=output,
            stderr=STDOUT,
            own_session=True,
            translate=False,
        )
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise OperationalError(
                Kind.FAULT,
                "forkbed serve",
                f"it ended with exit status {process.returncode} instead of answering",
                f"its log is {log}",
                details=tuple(_last_lines(log)),
            )
        about = _ask(socket)
        if about is not None:
            return _tell(socket, about, f"runs (pid {process.pid}), log {log}")
        time.sleep(_POLL_S)
    raise OperationalError(
        Kind.UNREACHABLE,
        "forkbed serve",
        f"it runs (pid {process.pid}), but does not answer after {_START_S:.0f} s",
        f"its log is {log}",
        details=tuple(_last_lines(log)),
    )


def _ask(socket: Path) -> dict[str, object] | None:
    try:
        with Client(socket) as client:
            return dict(client.about())
    except OperationalError as error:
        if error.kind is Kind.UNREACHABLE:
            return None
        raise


def _tell(socket: Path, about: dict[str, object], words: str) -> int:
    if not emit({"socket": str(socket), "about": about}):
        say(f"forkbed serve {words}; it answers at {socket}")
    return 0


def _open_log(log: Path) -> Path:
    try:
        log.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".log.1"))
        log.touch(mode=0o640)
    except OSError as error:
        raise OperationalError(
            Kind.FAULT,
            str(log),
            f"cannot be written: {error.strerror}",
            "run it as root, or with directories of your own (FORKBED_STATE_DIR, --socket)",
        ) from error
    return log


def _last_lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
