"""How OpenSSH's client is called: argument lists, and what its complaints mean. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError

_ALIVE_INTERVAL_S = 5
_ALIVE_COUNT = 3
_REFUSALS = ("Permission denied", "Too many authentication failures")
_STRANGERS = ("Host key verification failed", "HOST IDENTIFICATION HAS CHANGED")


@dataclass(frozen=True, slots=True)
class SshTarget:
    """A guest as ssh sees it. `namespace` is the network namespace to start from."""

    subject: str  # for errors: "machine boss"
    namespace: str
    address: str
    instance_id: str
    key: Path
    known_hosts: Path
    control: Path  # socket of the kept connection
    shared: bool = False  # whether the server carries several commands on one connection


def ssh_argv(target: SshTarget, *options: str, log: Path) -> tuple[str, ...]:
    """The client with everything decided here and nothing by the person's own configuration.

    ssh's own words go into `log`, so the command's standard error is the command's alone.
    """
    settings = {
        "BatchMode": "yes",
        "CheckHostIP": "no",
        "ConnectTimeout": "10",
        "ControlPath": str(target.control).replace("%", "%%"),
        "EscapeChar": "none",
        "ForwardAgent": "no",
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlgorithms": "ssh-ed25519",
        "HostKeyAlias": target.instance_id,
        "IdentitiesOnly": "yes",
        # The client's first choice otherwise costs an emulated guest a good part of a second.
        "KexAlgorithms": "^curve25519-sha256",
        "LogLevel": "ERROR",
        "PreferredAuthentications": "publickey",
        "ServerAliveCountMax": str(_ALIVE_COUNT),
        "ServerAliveInterval": str(_ALIVE_INTERVAL_S),
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": f'"{target.known_hosts}"',
    }
    words = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    return (
        *("ssh", "-F", "none", "-E", str(log), "-i", str(target.key), "-l", "root"),
        *words,
        *options,
        target.address,
    )


def connection_failure(target: SshTarget, complaint: tuple[str, ...]) -> OperationalError:
    """The error for a connection that did not come about, or broke."""
    words = " ".join(complaint)
    said = complaint[-1] if complaint else "no answer"
    if any(sign in words for sign in _STRANGERS):
        return OperationalError(
            Kind.FAULT,
            target.subject,
            "ssh: another host answers than the one expected: its host key is not the one in the machine's seed",
            "restart the machine, so that it takes its key from the seed",
            details=complaint,
        )
    if any(sign in words for sign in _REFUSALS):
        return OperationalError(
            Kind.FAULT,
            target.subject,
            "ssh: the guest refuses the installation's key for root",
            "use `--via agent`, and look at /root/.ssh/authorized_keys in the guest",
            details=complaint,
        )
    return OperationalError(
        Kind.UNREACHABLE,
        target.subject,
        f"ssh: {said}",
        "`forkbed console` shows what the guest is doing",
        details=complaint,
    )
