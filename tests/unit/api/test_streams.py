"""Commands and consoles over WebSockets: any size, both ways, bounded, and ended with their client."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import unix_connect

from forkbed.api.client import Client
from forkbed.api.client.streams import GuestConnection
from forkbed.api.frames import Channel, pack, pack_control, read_control, unpack
from forkbed.base.errors import Kind, OperationalError
from forkbed.ports.guests import CommandRequest
from tests.unit.api.fake import FakeController

MIB = 1024 * 1024


def _command(client: Client, *argv: str, **options: object) -> GuestConnection:
    return client.open_command("boss-ops", "boss", CommandRequest(argv, **options))  # type: ignore[arg-type]


def _outputs(stream: GuestConnection) -> tuple[bytes, bytes]:
    found = {Channel.OUTPUT: b"", Channel.ERROR_OUTPUT: b""}
    for channel, data in stream.output():
        found[channel] += data
    return found[Channel.OUTPUT], found[Channel.ERROR_OUTPUT]


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_output_errors_and_status(client: Client, controller: FakeController) -> None:
    with _command(client, "sh", "-c", "echo out; echo err >&2; exit 7", user="app") as stream:
        assert (stream.via, stream.notice) == ("ssh", "")
        assert _outputs(stream) == (b"out\n", b"err\n")
        assert stream.exit_status == 7
    name, request = controller.calls[-1]
    assert name == "open_command"
    assert request == CommandRequest(("sh", "-c", "echo out; echo err >&2; exit 7"), user="app")


def test_a_signal_is_told_as_a_shell_would(client: Client) -> None:
    with _command(client, "sh", "-c", "kill -9 $$") as stream:
        _outputs(stream)
        assert stream.exit_status == 137


def test_words_arrive_unchanged(client: Client) -> None:
    words = ["a b", "", "$HOME", "'\"", "é", "\n", "*"]
    with _command(client, "printf", "%s|", *words) as stream:
        assert _outputs(stream)[0].decode() == "".join(f"{word}|" for word in words)


def test_the_fallback_says_what_it_cannot(client: Client, controller: FakeController) -> None:
    controller.machine_notice = "no terminal"
    with _command(client, "true") as stream:
        assert (stream.via, stream.notice) == ("agent", "no terminal")


def test_fifty_mebibytes_go_in_and_come_back(client: Client) -> None:
    block = bytes(range(256)) * 4096
    sent, received = hashlib.sha256(), hashlib.sha256()
    size = 0
    with _command(client, "cat") as stream:

        def send() -> None:
            for _ in range(50):
                sent.update(block)
                assert stream.write(block)
            stream.close_input()

        writer = threading.Thread(target=send)
        writer.start()
        for channel, data in stream.output():
            assert channel is Channel.OUTPUT
            received.update(data)
            size += len(data)
        writer.join(10)
    assert size == 50 * MIB
    assert sent.digest() == received.digest()
    assert stream.exit_status == 0


def test_a_command_that_reads_no_more_ends_as_it_wants(client: Client) -> None:
    with _command(client, "head", "-c", "3") as stream:
        threading.Thread(target=lambda: stream.write(b"abcdef" * MIB), daemon=True).start()
        assert _outputs(stream) == (b"abc", b"")
        assert stream.exit_status == 0


def test_input_waits_for_a_command_that_does_not_read(client: Client) -> None:
    sent: list[int] = []
    with _command(client, "sleep", "60") as stream:

        def send() -> None:
            while stream.write(bytes(MIB)):
                sent.append(1)

        writer = threading.Thread(target=send)
        writer.start()
        reader = threading.Thread(target=lambda: [None for _ in stream.output()], daemon=True)
        reader.start()
        time.sleep(0.7)
        assert len(sent) <= 1  # the window, and what the pipe holds
        stream.leave()
        writer.join(5)
        assert not writer.is_alive()


def test_output_waits_for_a_client_that_does_not_read(client: Client, controller: FakeController) -> None:
    with _command(
        client, "sh", "-c", "dd if=/dev/zero bs=65536 count=800 2>/dev/null; echo done >ready"
    ) as stream:
        time.sleep(1)
        assert controller.commands[-1].process.poll() is None
        assert sum(len(data) for _, data in stream.output()) == 800 * 65536


@pytest.mark.parametrize("script", ["sleep 60", "cat >/dev/null", "yes"])
def test_the_command_is_killed_when_its_client_goes(
    client: Client, controller: FakeController, script: str
) -> None:
    with _command(client, "sh", "-c", script):
        assert controller.commands[-1].process.poll() is None
    _eventually(lambda: controller.commands[-1].killed)


def test_it_is_killed_also_while_it_takes_no_input(client: Client, controller: FakeController) -> None:
    stream = _command(client, "sleep", "60")
    threading.Thread(target=lambda: stream.write(bytes(4 * MIB)), daemon=True).start()
    reader = threading.Thread(target=lambda: [None for _ in stream.output()], daemon=True)
    reader.start()
    time.sleep(0.3)
    stream.leave()
    _eventually(lambda: controller.commands[-1].killed)


def test_a_terminal_has_a_size_that_changes(client: Client) -> None:
    script = "stty size; read x; stty size"
    with _command(client, "sh", "-c", script, terminal=(30, 90)) as stream:
        output = stream.output()
        assert next(output)[1].startswith(b"30 90")
        stream.resize(40, 100)
        stream.write(b"\n")
        assert b"40 100" in b"".join(data for _, data in output)


def test_the_console_goes_both_ways(client: Client, controller: FakeController) -> None:
    with client.open_console("boss-ops", "boss") as stream:
        output = stream.output()
        assert next(output) == (Channel.OUTPUT, b"login: ")
        stream.write(b"root\r")
        assert next(output) == (Channel.OUTPUT, b"root\r")
        stream.write(b"\x04")
        assert list(output) == []
    _eventually(lambda: controller.consoles[-1].closed)


def test_what_cannot_be_opened_is_told(client: Client) -> None:
    with pytest.raises(OperationalError) as caught:
        client.open_command("boss-ops", "none", CommandRequest(("true",)))
    assert caught.value.kind is Kind.NOT_FOUND
    with pytest.raises(OperationalError) as caught:
        client.open_console("none", "boss")
    assert caught.value.kind is Kind.NOT_FOUND


def test_without_a_server_it_says_so(tmp_path: Path) -> None:
    with Client(tmp_path / "none.sock") as client, pytest.raises(OperationalError) as caught:
        client.open_console("boss-ops", "boss")
    assert caught.value.kind is Kind.UNREACHABLE


def test_many_streams_at_once_and_requests_between(client: Client) -> None:
    streams = [_command(client, "cat") for _ in range(40)]
    assert client.systems()
    for number, stream in enumerate(streams):
        assert stream.write(f"{number}".encode())
        stream.close_input()
    for number, stream in enumerate(streams):
        with stream:
            assert _outputs(stream)[0] == f"{number}".encode()


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x09x",
        pack(Channel.CONTROL, b"{"),
        pack(Channel.CONTROL, b"[]"),
        pack_control("resize", rows="many"),
        pack(Channel.INPUT, bytes(MIB - 1)),
    ],
)
def test_frames_that_make_no_sense_end_the_stream(
    socket: Path, controller: FakeController, frame: bytes
) -> None:
    url = "ws://forkbed/v1/systems/boss-ops/machines/boss/exec"
    with unix_connect(str(socket), url, compression=None) as connection:
        connection.send(pack_control("start", argv=["sleep", "60"]))
        assert read_control(unpack(_bytes(connection.recv()))[1])["type"] == "window"
        assert read_control(unpack(_bytes(connection.recv()))[1])["type"] == "opened"
        connection.send(frame)
        connection.send(frame)
        message = read_control(unpack(_bytes(connection.recv()))[1])
        while message["type"] == "window":
            message = read_control(unpack(_bytes(connection.recv()))[1])
    assert message["type"] == "error"
    assert message["problem"]["kind"] == "invalid"
    _eventually(lambda: controller.commands[-1].killed)


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"\x03{}",
        pack_control("resize", rows=1, columns=1),
        pack_control("start"),
        pack_control("start", argv=[1]),
    ],
)
def test_a_start_that_makes_no_sense_is_refused(
    socket: Path, controller: FakeController, start: bytes
) -> None:
    url = "ws://forkbed/v1/systems/boss-ops/machines/boss/exec"
    with unix_connect(str(socket), url, compression=None) as connection:
        connection.send(start)
        assert read_control(unpack(_bytes(connection.recv()))[1])["problem"]["kind"] == "invalid"
    assert controller.commands == []


def test_there_is_no_other_stream(socket: Path) -> None:
    with pytest.raises(InvalidStatus):
        unix_connect(str(socket), "ws://forkbed/v1/systems/boss-ops/machines/boss/other")


def _bytes(message: str | bytes) -> bytes:
    assert isinstance(message, bytes)
    return message


def test_the_console_log_is_read_and_followed(client: Client, controller: FakeController) -> None:
    controller.log = b"one\ntwo\n"
    assert client.console_log("boss-ops", "boss") == b"one\ntwo\n"
    assert client.console_log("boss-ops", "boss", tail_bytes=4) == b"two\n"
    pieces = client.follow_console_log("boss-ops", "boss", tail_bytes=4)
    assert next(pieces) == b"two\n"
    controller.log += b"three\n"
    assert next(pieces) == b"three\n"
