"""Console and emulator logs: rotated parts, tails, and the words worth showing."""

from __future__ import annotations

from pathlib import Path

from forkbed.drivers.libvirt.logs import console_words, emulator_words, read_log, remove_log

EMULATOR_LOG = """\
2026-01-01 00:00:00.000+0000: starting up libvirt version: 9.0.0, qemu version: 7.2
LC_ALL=C \\
/usr/bin/qemu-system-x86_64 \\
-name guest=a \\
-msg timestamp=on
qemu: an old complaint
2026-01-01 00:00:09.000+0000: shutting down, reason=failed
2026-01-02 00:00:00.000+0000: starting up libvirt version: 9.0.0, qemu version: 7.2
LC_ALL=C \\
/usr/bin/qemu-system-x86_64 \\
-msg timestamp=on
char device redirected to /dev/pts/1
qemu-system-x86_64: -drive x: Image is not in qcow2 format
"""


def test_rotated_parts_come_oldest_first(tmp_path: Path) -> None:
    log = tmp_path / "m.log"
    log.write_bytes(b"newest")
    (tmp_path / "m.log.0").write_bytes(b"middle-")
    (tmp_path / "m.log.1").write_bytes(b"oldest-")
    assert read_log(log) == b"oldest-middle-newest"
    assert read_log(log, tail_bytes=3) == b"est"
    assert read_log(log, tail_bytes=8) == b"e-newest"
    assert read_log(log, tail_bytes=0) == b""
    remove_log(log)
    assert list(tmp_path.iterdir()) == []
    assert read_log(log) == b""
    remove_log(log)


def test_emulator_words_are_those_of_the_last_start(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(EMULATOR_LOG)
    assert emulator_words(log) == (
        "char device redirected to /dev/pts/1",
        "qemu-system-x86_64: -drive x: Image is not in qcow2 format",
    )
    assert emulator_words(log, lines=1) == ("qemu-system-x86_64: -drive x: Image is not in qcow2 format",)
    assert emulator_words(tmp_path / "none") == ()


def test_console_words_are_printable(tmp_path: Path) -> None:
    log = tmp_path / "c.log"
    log.write_bytes(b"\x1b[2J\x1b[0mboot\r\n\r\n\xff\x07panic: no root\r\n")
    assert console_words(log) == ("[2J[0mboot", "\ufffdpanic: no root")
