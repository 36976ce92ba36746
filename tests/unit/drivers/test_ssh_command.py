"""How ssh is called, and what its complaints mean."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import InstallationId
from forkbed.drivers.guests.keys import KeyStore
from forkbed.drivers.guests.ssh import SshAccess
from forkbed.drivers.guests.ssh_command import SshTarget, connection_failure, ssh_argv

TARGET = SshTarget(
    subject="machine boss",
    namespace="/run/netns/x",
    address="10.0.0.2",
    instance_id="i-1",
    key=Path("/state/ssh/login/key"),
    known_hosts=Path("/state dir/known_hosts"),
    control=Path("/run/forkbed/ssh/100%"),
)


def test_nothing_depends_on_the_persons_configuration() -> None:
    argv = ssh_argv(TARGET, "-T", log=Path("/run/log"))
    assert argv[:3] == ("ssh", "-F", "none")
    assert argv[-2:] == ("-T", "10.0.0.2")
    settings = {words for flag, words in pairwise(argv) if flag == "-o"}
    assert {
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "HostKeyAlias=i-1",
        'UserKnownHostsFile="/state dir/known_hosts"',
        "GlobalKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
        "ControlPath=/run/forkbed/ssh/100%%",
        "EscapeChar=none",
        "ForwardAgent=no",
    } <= settings


@pytest.mark.parametrize(
    ("complaint", "kind", "words"),
    [
        (("Host key verification failed.",), Kind.FAULT, "host key"),
        (("root@10.0.0.2: Permission denied (publickey).",), Kind.FAULT, "refuses"),
        (("ssh: connect to host 10.0.0.2 port 22: No route to host",), Kind.UNREACHABLE, "No route to host"),
        ((), Kind.UNREACHABLE, "no answer"),
    ],
)
def test_complaints(complaint: tuple[str, ...], kind: Kind, words: str) -> None:
    failure = connection_failure(TARGET, complaint)
    assert failure.kind is kind
    assert failure.subject == "machine boss"
    assert words in failure.brief
    assert failure.details == complaint
    assert failure.remedy


def test_a_directory_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "keys", InstallationId("t0st"))
    with pytest.raises(OperationalError) as failure:
        SshAccess(keys, tmp_path / ("x" * 100))
    assert failure.value.kind is Kind.INVALID
