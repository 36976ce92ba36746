from __future__ import annotations

import json
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers.liveness import ProcessId
from forkbed.lab.layout import LabPaths, LabRecord, PublishedPort, parse_published

TCP = {"protocol": "tcp", "host_address": "127.0.0.1", "host_port": 8080}


@pytest.mark.parametrize("name", ["a", "default", "test-123", "x" * 32])
def test_a_lab_is_a_directory_of_its_name(name: str) -> None:
    paths = LabPaths.of(Path("/labs"), name)
    assert paths.name == name
    assert paths.root == Path("/labs") / name
    assert all(source.is_relative_to(paths.root) for source in paths.mounts())


@pytest.mark.parametrize("name", ["", "..", "a/b", "-a", "a-", "A", "1a", "a b", "x" * 33, "a\n"])
def test_a_name_that_could_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(OperationalError) as caught:
        LabPaths.of(Path("/labs"), name)
    assert caught.value.kind is Kind.INVALID


def test_sockets_fit_into_an_address_however_the_lab_is_called() -> None:
    paths = LabPaths.of(Path("/var/lib/forkbed-lab"), "x" * 32)
    assert all(len(str(path)) < 108 for path in (paths.libvirt_socket, paths.api_socket))


def test_the_record_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "lab.json"
    for record in (
        LabRecord("uuid"),
        LabRecord("uuid", init=ProcessId(12, 3456), owner=ProcessId(7, 8)),
        LabRecord("uuid", ProcessId(1, 2), ProcessId(3, 4), ProcessId(5, 6)),
    ):
        record.save(path)
        assert LabRecord.load(path) == record
    assert [entry.name for entry in tmp_path.iterdir()] == ["lab.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host_uuid": "x"}', '{"init": "one", "host_uuid": "x"}'])
def test_what_cannot_be_read_is_no_record(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lab.json"
    path.write_text(text)
    assert LabRecord.load(path) is None
    assert LabRecord.load(tmp_path / "none") is None


def test_published_ports_are_read() -> None:
    text = json.dumps([TCP, {**TCP, "protocol": "udp", "machine": "boss"}, TCP])
    assert parse_published(text) == {
        PublishedPort("tcp", "127.0.0.1", 8080),
        PublishedPort("udp", "127.0.0.1", 8080),
    }


@pytest.mark.parametrize(
    "entries",
    [
        {},
        ["tcp"],
        [{**TCP, "protocol": "sctp"}],
        [{**TCP, "host_port": 0}],
        [{**TCP, "host_port": 65536}],
        [{}],
    ],
)
def test_anything_else_is_refused_as_a_whole(entries: object) -> None:
    with pytest.raises(ValueError, match="it "):
        parse_published(json.dumps(entries))
