"""The intents on disk."""

from __future__ import annotations

import errno
import json
import os
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from forkbed.base.ids import NetworkId, SystemId
from forkbed.core.networks.intents import Intent, IntentKind
from forkbed.core.networks.recording.names import Names
from forkbed.core.networks.recording.understood import Understood
from forkbed.drivers.networks.recorder.files import FileLimits, IntentFiles, read
from forkbed.drivers.networks.recorder.journal import Journal
from forkbed.drivers.networks.recorder.kept import KeptIntents
from forkbed.drivers.networks.recorder.settings import Limits, Settings

ROOMY = FileLimits()


def intent(port: int = 80, **fields: str) -> Intent:
    return Intent(0, 12.5, IntentKind.HTTP, "10.20.0.10", "198.18.130.1", port, "x.org", fields, r"\x00")


def numbers(directory: Path, after: int = 0, limit: int = 1000) -> list[int]:
    return [found.sequence for found in read(directory, after=after, limit=limit)]


def test_intents_come_back_in_order_and_in_pieces(tmp_path: Path) -> None:
    files = IntentFiles(tmp_path / "net", ROOMY)
    assert all(files.add(intent(port, path=f"/{port}\n")) for port in range(5))
    found = read(tmp_path / "net", after=0, limit=100)
    assert [(i.sequence, i.port, i.details) for i in found] == [
        (n + 1, n, {"path": f"/{n}\n"}) for n in range(5)
    ]
    assert (found[0].kind, found[0].at, found[0].host, found[0].first_bytes) == (
        "http",
        12.5,
        "x.org",
        r"\x00",
    )
    assert numbers(tmp_path / "net", after=2, limit=2) == [3, 4]
    assert numbers(tmp_path / "net", after=5) == numbers(tmp_path / "other") == []
    assert (tmp_path / "net").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "net").iterdir())


def test_the_sequence_goes_on_after_a_restart(tmp_path: Path) -> None:
    for _ in range(3):
        files = IntentFiles(tmp_path, FileLimits(most_intents=2))
        files.add(intent())
        files.add(intent())
        files.close()
    assert [i.sequence for i in read(tmp_path, after=0, limit=100) if i.kind != "dropped"] == [3, 4, 5, 6]


def test_old_ones_make_room_and_their_number_is_told(tmp_path: Path) -> None:
    files = IntentFiles(tmp_path, FileLimits(most_intents=10))
    for _ in range(45):
        files.add(intent())
    found = read(tmp_path, after=0, limit=100)
    assert [i.sequence for i in found] == list(range(30, 46))
    assert (found[0].kind, found[0].details) == (IntentKind.DROPPED, {"count": "30"})
    assert read(tmp_path, after=20, limit=100)[0].details == {"count": "10"}
    assert numbers(tmp_path, after=30, limit=3) == [31, 32, 33]
    assert len(read(tmp_path, after=0, limit=1)) == 1


def test_the_files_grow_no_larger_than_they_may(tmp_path: Path) -> None:
    files = IntentFiles(tmp_path, FileLimits(most_bytes=4000))
    for n in range(200):
        assert files.add(intent(path="p" * (n % 50)))
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 8000
    assert numbers(tmp_path)[-1] == 200


@pytest.mark.parametrize(
    "tear", [b'{"sequence": 3, "at": 1', b"\0\xff", b"[]\n", b'{"sequence": 9, "x": 1}\n']
)
def test_a_torn_or_strange_line_is_passed_over(tmp_path: Path, tear: bytes) -> None:
    files = IntentFiles(tmp_path, ROOMY)
    files.add(intent())
    files.add(intent())
    with (tmp_path / "intents-0.jsonl").open("ab") as file:
        file.write(tear)
    again = IntentFiles(tmp_path, ROOMY)
    again.add(intent())
    assert numbers(tmp_path)[:2] == [1, 2]
    assert read(tmp_path, after=2, limit=9)[-1].kind is IntentKind.HTTP


def test_a_full_disk_loses_intents_but_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, write = IntentFiles(tmp_path, ROOMY), os.write
    files.add(intent())
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda file, data: write(file, data[:20]))
        assert not files.add(intent())

        def full(file: int, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        patched.setattr(os, "write", full)
        assert not files.add(intent())
    assert files.add(intent(8080))
    assert [(i.sequence, i.port) for i in read(tmp_path, after=0, limit=9)] == [(1, 80), (2, 8080)]


def test_a_link_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "intents-0.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        IntentFiles(tmp_path, ROOMY)
    assert not (tmp_path / "elsewhere").exists()


def journal(directory: Path, **limits: float) -> tuple[Journal, Names]:
    names = Names(IPv4Network("198.18.128.0/17"))
    return Journal(IntentFiles(directory, ROOMY), names, Limits(**limits)), names  # type: ignore[arg-type]


def test_the_name_that_an_address_stands_for_is_written_too(tmp_path: Path) -> None:
    written, names = journal(tmp_path)
    address = str(names.address_of("example.org"))
    written.tell(Understood(IntentKind.TCP), "10.20.0.10", (address, 22))
    written.tell(Understood(IntentKind.TLS, host="sni.org"), "10.20.0.10", ("192.0.2.1", 443))
    assert [i.host for i in read(tmp_path, after=0, limit=9)] == ["example.org", "sni.org"]


def test_the_same_question_is_one_try(tmp_path: Path) -> None:
    written, _ = journal(tmp_path)
    for source, name, kind in (
        ("1", "x", "A"),
        ("1", "x", "A"),
        ("2", "x", "A"),
        ("1", "x", "MX"),
        ("1", "y", "A"),
    ):
        asked = Understood(IntentKind.DNS, name, {"name": name, "type": kind, "answer": ""})
        written.tell(asked, f"10.20.0.{source}", ("10.20.0.1", 53))
    assert len(read(tmp_path, after=0, limit=9)) == 4


def test_what_is_too_much_is_counted(tmp_path: Path) -> None:
    written, _ = journal(tmp_path, intents_per_s=0.0, intents_at_once=3)
    for _ in range(10):
        written.tell(Understood(IntentKind.TCP), "10.20.0.10", ("192.0.2.1", 22))
    written.tell_drops_sometimes()
    written.drop()
    assert written.has_drops
    written.tell_drops_sometimes()  # not again within the second
    found = read(tmp_path, after=0, limit=99)
    assert [i.kind for i in found] == ["tcp"] * 3 + ["dropped"]
    assert found[-1].details == {"count": "7"}
    written.tell_drops()
    assert read(tmp_path, after=4, limit=9)[0].details == {"count": "1"}
    assert not written.has_drops


def test_kept_intents_know_whose_they_are(tmp_path: Path) -> None:
    kept = KeptIntents(tmp_path / "intents")
    assert kept.owners() == {}
    directory = kept.make(NetworkId("n1"), SystemId("s1"))
    assert kept.make(NetworkId("n1"), SystemId("s1")) == directory
    (tmp_path / "intents/half").mkdir()
    assert kept.owners() == {"n1": "s1", "half": ""}
    assert kept.remove(NetworkId("n1"))
    assert not kept.remove(NetworkId("n1"))
    assert kept.owners() == {"half": ""}


def test_settings_come_back_as_they_were() -> None:
    settings = Settings(
        Path("/var/lib/forkbed/intents/n1"),
        Path("/run/forkbed/networks/n1/recorder.pid"),
        "nobody",
        IPv4Address("10.20.0.1"),
        IPv4Network("198.18.128.0/17"),
        Limits(connections=3, files=FileLimits(most_bytes=7)),
    )
    assert Settings.parse(settings.as_text()) == settings
    assert json.loads(settings.as_text())["limits"]["files"]["most_bytes"] == 7
