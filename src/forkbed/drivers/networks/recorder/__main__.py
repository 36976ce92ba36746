"""Start the recorder: open what is needed, say that it serves, give up all rights, serve."""

from __future__ import annotations

import os
import pwd
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

from forkbed.core.networks.intents import Intent, IntentKind
from forkbed.core.networks.recording.names import Names
from forkbed.drivers.networks.recorder import files
from forkbed.drivers.networks.recorder.files import IntentFiles
from forkbed.drivers.networks.recorder.journal import Journal
from forkbed.drivers.networks.recorder.serving import Recorder
from forkbed.drivers.networks.recorder.settings import Settings
from forkbed.drivers.networks.recorder.sockets import Sockets

_NICENESS = 10
_MEMORY_BYTES = 512 << 20
_OTHER_FILES = 64


def main(arguments: Sequence[str]) -> None:
    """Record until told to end (TERM)."""
    settings = Settings.parse(Path(arguments[0]).read_text())
    wakes = _woken_by_signals()
    names = Names(settings.pool)
    for intent in files.read(settings.intents, after=0, limit=sys.maxsize):
        _remember(names, intent)
    kept = IntentFiles(settings.intents, settings.limits.files)
    sockets = Sockets()
    account = pwd.getpwnam(settings.user)
    _say_that_it_serves(settings.pid_file)
    _give_up_rights(account, settings.limits.connections + _OTHER_FILES)
    journal = Journal(kept, names, settings.limits)
    Recorder(sockets, journal, names, settings).serve(wakes)


def _woken_by_signals() -> socket.socket:
    """A socket that can be read once the process was told to end."""
    wakes, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.detach())
    signal.signal(signal.SIGTERM, lambda *_: None)
    return wakes


def _say_that_it_serves(pid_file: Path) -> None:
    written = pid_file.with_name(f".{pid_file.name}.new")
    written.write_text(f"{os.getpid()}\n")
    written.replace(pid_file)


def _remember(names: Names, intent: Intent) -> None:
    """Let the address that was told for a name before stand for it again."""
    if intent.kind is IntentKind.DNS and intent.details.get("type") == "A" and intent.details.get("answer"):
        names.remember(intent.details["name"], IPv4Address(intent.details["answer"]))


def _give_up_rights(account: pwd.struct_passwd, most_files: int) -> None:
    os.nice(_NICENESS)
    for kind, limit in (
        (resource.RLIMIT_NOFILE, most_files),
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    os.chdir("/")
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


if __name__ == "__main__":
    main(sys.argv[1:])
