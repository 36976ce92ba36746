"""The shell text that runs a command in a guest, exactly as its words say and as the user asked for. Pure.

Written for any POSIX shell: the same text serves Debian and busybox. A command is recorded in the guest while it
runs, because neither sshd nor the agent ends one whose client went away; `end_script` does.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers.guests.trailer import status_mark

DIRECTORY = "/run/forkbed/commands"
OUTPUT_DIRECTORY = "/var/tmp"  # on disk: output may be larger than the guest's memory
_ROOT = "root"
_LONGEST_SCRIPT = 120_000  # Linux takes 128 KiB in one argument
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def quoted(argv: Sequence[str]) -> str:
    """The words as one line from which a POSIX shell reads exactly these words. INVALID if that is impossible."""
    if any("\0" in word for word in argv):
        raise OperationalError(
            Kind.INVALID, "command", "an argument holds a NUL byte, which no program can receive"
        )
    line = " ".join(shlex.quote(word) for word in argv)
    if len(line) > _LONGEST_SCRIPT:
        raise OperationalError(
            Kind.INVALID,
            "command",
            f"its arguments are too long: {len(line)} characters, at most {_LONGEST_SCRIPT}",
            "pass the data through standard input",
        )
    return line


def command_script(argv: Sequence[str], user: str, token: str, *, terminal: bool = False) -> str:
    """Run the words as the user and end with their status, or 128 + signal. Recorded under `token`.

    Without a terminal they run in a session of their own, so that all they start can be ended together, and the
    status is told on standard error as well (see `trailer`). With one they stay in its session, which ends with it.
    """
    record = f"{DIRECTORY}/{token}"
    inner = f"echo $$ >{record}; {_as_user(argv, user)}"
    session = "" if terminal else "setsid "
    lines = [
        f"mkdir -p {DIRECTORY}",
        "trap : INT QUIT",  # typed into a terminal they are for the command; this shell tells how it ended
        # In a child, so that `setsid` need not fork one of its own and lose the status.
        f"(exec {session}/bin/sh -c {shlex.quote(inner)})",
        f"status=$?; rm -f {record}",
        "exit $status" if terminal else f"printf '\\000{_mark(token)}%d\\n' $status >&2; exit $status",
    ]
    return _posix_shell("\n".join(lines))


def shell_script(user: str, mark: str = "") -> str:
    """Start the user's own shell as a log-in shell, with `mark` in its prompt where the shell lets us.

    Through its environment alone: Debian's and Ubuntu's prompts show `debian_chroot`, and busybox, or a bash whose
    start-up files set none, take PS1. `su` of util-linux before 2.35 and of busybox cannot hand it on.
    """
    own = 'exec "${SHELL:-/bin/sh}" -l'
    if user != _ROOT:
        own = f"exec su - {shlex.quote(user)}"
    if not mark:
        return own
    prompt = f"({mark}) $PWD {'#' if user == _ROOT else '$'} "
    lines = [f"debian_chroot={shlex.quote(mark)} PS1={shlex.quote(prompt)}", "export debian_chroot PS1", own]
    if user != _ROOT:
        keeping = f"exec su -w debian_chroot,PS1 - {shlex.quote(user)}"
        lines.insert(2, f"case $(su --help 2>&1) in *--whitelist-environment*) {keeping};; esac")
    return _posix_shell("\n".join(lines))


def end_script(token: str) -> str:
    """End the command recorded under `token` with all it started: politely, after two seconds by force."""
    leftovers = f"{DIRECTORY}/{token}.* {OUTPUT_DIRECTORY}/forkbed-{token}.*"
    return _posix_shell(
        f"""
leader=$(cat {DIRECTORY}/{token} 2>/dev/null)
kill $(cat {DIRECTORY}/{token}.holder {DIRECTORY}/{token}.writer 2>/dev/null) 2>/dev/null
[ -n "$leader" ] || {{ rm -f {leftovers}; exit 0; }}
kill -TERM -$leader 2>/dev/null || kill -TERM $leader
tries=0
while kill -0 $leader 2>/dev/null && [ $tries -lt 20 ]; do sleep 0.1; tries=$((tries + 1)); done
kill -KILL -$leader 2>/dev/null
rm -f {DIRECTORY}/{token} {leftovers}
""".strip()
    )


def agent_script(argv: Sequence[str], user: str, token: str) -> str:
    """As `command_script`, for a caller that has no streams: input from a pipe, output into files.

    A process of its own holds the pipe open, so that the command sees its end when `agent_close_script` ends it.
    """
    base = f"{DIRECTORY}/{token}"
    output, errors = (output_path(token, name) for name in ("stdout", "stderr"))
    lines = [
        f"umask 077; mkdir -p {DIRECTORY} {OUTPUT_DIRECTORY}; mkfifo {base}.in",
        f"export HOME=/root USER=root LOGNAME=root PATH={_PATH}; cd /root 2>/dev/null || cd /",
        f"(exec sleep 99999999) 9<>{base}.in >/dev/null 2>&1 & echo $! >{base}.holder",
        f"echo $$ >{base}; : >{output}; : >{errors}",
        f"({_as_user(argv, user)}) <{base}.in >{output} 2>{errors}",
        "status=$?",
        f"kill $(cat {base}.holder) 2>/dev/null; rm -f {base}; exit $status",
    ]
    return f"exec setsid /bin/sh -c {shlex.quote(chr(10).join(lines))}"


def output_path(token: str, name: str) -> str:
    """Where the agent finds what the command writes to `stdout` or `stderr`."""
    return f"{OUTPUT_DIRECTORY}/forkbed-{token}.{name}"


def agent_input_script(token: str) -> str:
    """Pass standard input on to the command; ends when the command has taken it, or is over."""
    base = f"{DIRECTORY}/{token}"
    return f"[ -e {base} ] && echo $$ >{base}.writer && exec cat >{base}.in"


def agent_close_script(token: str) -> str:
    """Let the command see the end of its input."""
    return f"kill $(cat {DIRECTORY}/{token}.holder) 2>/dev/null; :"


def _as_user(argv: Sequence[str], user: str) -> str:
    # `exec` keeps the shell's own commands and reserved words out: the words name a program.
    command = f"exec {quoted(argv)}"
    if user == _ROOT:
        return command
    inner = shlex.quote(f'cd "$HOME" 2>/dev/null; {command}')
    name = shlex.quote(user)
    # Debian's `su -c` would leave the session, and with it the terminal; busybox knows only this one.
    return (
        "if command -v runuser >/dev/null; "
        f"then exec runuser -s /bin/sh --session-command {inner} {name}; "
        f"else exec su -s /bin/sh -c {inner} {name}; fi"
    )


def _mark(token: str) -> str:
    """The status's mark as `printf` takes it, after its first byte."""
    return status_mark(token)[1:].decode()


def _posix_shell(text: str) -> str:
    """`text` for a log-in shell of any kind."""
    return f"exec /bin/sh -c {shlex.quote(text)}"
