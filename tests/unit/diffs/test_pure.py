"""Packages, services, rules of noise and text differences, by themselves."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from forkbed.core.diffs.limits import Limits
from forkbed.core.diffs.packages import installed, package_changes
from forkbed.core.diffs.records import PackageChange
from forkbed.core.diffs.rules import Selection
from forkbed.core.diffs.services import states
from forkbed.core.diffs.texts import unified
from forkbed.core.diffs.threeway import Standing

LIMITS = Limits(text_bytes=10_000, text_lines=200)


def test_installed_packages() -> None:
    status = (
        b"Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2-1\nDescription: shell\n"
        b" Version: 9 is not this\n\n"
        b"Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        b"Package: broken\nStatus: install ok half-configured\nArchitecture: all\nVersion: 2\n\n"
        b"Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 3\n\n"
        b"Package: libc6\nStatus: install ok installed\nArchitecture: i386\nVersion: 3\n\n"
        b"Package: \xff\x1b\nStatus: install ok installed\nVersion: 4\n"
    )
    assert installed(status) == {
        "bash": "5.2-1",
        "broken": "2 (half-configured)",
        "libc6:amd64": "3",
        "libc6:i386": "3",
        "\\xff\\x1b": "4",
    }
    assert installed(b"") == {}


def test_packages_on_both_sides() -> None:
    found = package_changes({"a": "1", "b": "1"}, {"a": "2", "b": "1"}, {"a": "2", "b": "1", "c": "5"})
    assert found == (
        PackageChange("a", Standing.BOTH, "1", "2", "2"),
        PackageChange("c", Standing.RIGHT, "", "", "5"),
    )


def test_states_of_services() -> None:
    system = "/etc/systemd/system"
    links = {
        f"{system}/multi-user.target.wants/ssh.service": "/lib/systemd/system/ssh.service",
        f"{system}/ssh.service": "/dev/null",
        f"{system}/sockets.target.requires/x.socket": "/lib/systemd/system/x.socket",
        f"{system}/dbus-org.service": "/lib/systemd/system/other.service",
        f"{system}/rpcbind.service": "/dev/null",
        "/etc/rc2.d/S01cron": "../init.d/cron",
        "/etc/rc2.d/K01apache": "../init.d/apache",
    }
    assert states(links) == {
        "ssh.service": "masked, enabled",
        "x.socket": "enabled",
        "rpcbind.service": "masked",
        "init script cron": "enabled",
    }


@pytest.mark.parametrize(
    ("path", "noisy"),
    [
        ("/var/log/syslog", True),
        ("/var/log", False),
        ("/srv/var/log/syslog", False),
        ("/usr/lib/python3/__pycache__/x.pyc", True),
        ("/lost+found", True),
        ("/var/lib/dpkg/status-old", True),
        ("/var/lib/dpkg/statoverride", False),
        ("/etc/hosts", False),
        ("/var/lib/forkbed/setup/0f3a", True),
        ("/var/lib/forkbed/steps/1-layout", True),
        ("/var/lib/forkbed-mine/data", False),
    ],
)
def test_noise(path: str, noisy: bool) -> None:
    assert Selection().matcher().noisy(path) is noisy
    assert not Selection(noise=()).matcher().noisy(path)
    assert not Selection((path,)).matcher().noisy(path)
    assert Selection(("/",)).matcher().noisy(path) is noisy


def test_selected_paths() -> None:
    matcher = Selection(("/etc/", "/srv/a")).matcher()
    paths = ("/etc", "/etc/x", "/etcetera", "/srv/a", "/srv/a/b", "/srv/ab")
    assert [path for path in paths if matcher.wanted(path)] == ["/etc", "/etc/x", "/srv/a", "/srv/a/b"]


@given(some.integers(0, 10**9))
def test_a_text_difference_is_a_patch(seed: int) -> None:
    """What is shown, applied to the old lines, gives the new ones."""
    source = random.Random(seed)
    old = [f"line {source.randrange(9)}" for _ in range(source.randrange(60))]
    new = [line for line in old if source.random() > 0.1]
    for _ in range(source.randrange(5)):
        new.insert(source.randrange(len(new) + 1), f"new {source.randrange(9)}")
    shown = unified(
        "".join(f"{line}\n" for line in old).encode(), "".join(f"{line}\n" for line in new).encode(), LIMITS
    )
    assert _patched(old, shown) == new


def _patched(old: list[str], shown: tuple[str, ...]) -> list[str]:
    result: list[str] = []
    at = 0
    for line in shown:
        if line.startswith("@@"):
            match = re.match(r"@@ -(\d+)(?:,(\d+))? ", line)
            assert match
            start = int(match[1]) - (0 if match[2] == "0" else 1)
            result += old[at:start]
            at = start
        elif line[0] in " -":
            assert old[at] == line[1:]
            at += 1
            result += [line[1:]] if line[0] == " " else []
        else:
            result.append(line[1:])
    return result + old[at:]


def test_text_differences_end_in_words_where_there_is_no_text() -> None:
    assert unified(b"a", b"a", LIMITS) == ()
    assert unified(b"a\n", b"\0", LIMITS) == ("(not text)",)
    assert unified(None, b"x" * 10_001, LIMITS) == ("(longer than 10000 bytes)",)
    assert unified(b"a", b"a\n", LIMITS)[-2:] == ("-a\\ (no newline at the end)", "+a")
    assert unified(b"a\n", b"\x1b[2J\xff\n", LIMITS)[-1] == "+\\x1b[2J\\\\xff".replace("\\\\", "\\")
    long = unified(None, b"x\n" * 4000, LIMITS)
    assert len(long) == LIMITS.text_lines + 1 and long[-1].endswith("more lines)")


def test_worst_cases_of_text_differences_stay_short() -> None:
    """Lines that are all alike are difflib's worst case: thousands of them are shown as replaced."""
    limits = Limits(text_bytes=100_000, text_lines=100_000)
    shown = unified(b"a\n" * 20_000, b"b\n" + b"a\n" * 15_000 + b"b\n", limits)
    assert len(shown) == 20_000 + 15_002 + 1


def test_the_text_difference_of_real_files_is_as_diffs_own(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("".join(f"{number}\n" for number in range(200)))
    new.write_text(old.read_text().replace("100\n", "hundred\n").replace("150\n", ""))
    diff = subprocess.run(["diff", "-U3", old, new], check=False, capture_output=True, text=True).stdout
    assert unified(old.read_bytes(), new.read_bytes(), LIMITS) == tuple(diff.splitlines()[2:])
