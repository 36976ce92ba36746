"""A guest of plain QEMU on a network that leads nowhere: a disk, a seed, further disks, and its agent to ask."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from forkbed.drivers import processes


@dataclass
class PlainGuest:
    """A running guest. `directory` holds its overlay, console log and sockets."""

    process: subprocess.Popen[bytes]
    directory: Path

    def console(self) -> str:
        return (self.directory / "console").read_text(errors="replace")

    def agent(self, command: str, **arguments: object) -> Any:
        """Ask the guest agent; `OSError` or `TimeoutError` if it does not answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.directory / "agent"))
            lines = connection.makefile("rw")
            mark = time.monotonic_ns() % 2**31
            # Answers to questions that nobody waited for any more may come first.
            for question in ({"execute": "guest-sync", "arguments": {"id": mark}}, {"execute": command}):
                lines.write(json.dumps({"arguments": arguments, **question}) + "\n")
            lines.flush()
            while json.loads(lines.readline()).get("return") != mark:
                pass
            answer = json.loads(lines.readline())
        assert "error" not in answer, answer
        return answer["return"]

    def wait_up(self, timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            assert self.process.poll() is None, self.console()
            assert time.monotonic() < deadline, f"no agent within {timeout_s:g} s: {self.console()[-3000:]}"
            try:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(0.5)
                    connection.connect(str(self.directory / "agent"))
                    connection.sendall(b'{"execute": "guest-ping"}\n')
                    if b"return" in connection.recv(100):
                        return
            except OSError:
                pass
            time.sleep(0.1)

    def run(self, script: str, *, status: int = 0, timeout_s: float = 60) -> str:
        """Run a shell script in the guest; what it wrote."""
        started = self.agent("guest-exec", path="/bin/sh", arg=["-c", script], **{"capture-output": True})
        deadline = time.monotonic() + timeout_s
        while not (answer := self.agent("guest-exec-status", pid=started["pid"]))["exited"]:
            assert time.monotonic() < deadline, f"no end: {script}"
            time.sleep(0.1)
        output, errors = (base64.b64decode(answer.get(key, "")).decode() for key in ("out-data", "err-data"))
        assert answer.get("exitcode") == status, (script, answer, output, errors)
        return output

    def power_off(self) -> None:
        """Shut down from inside, and wait for the end."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.directory / "agent"))
            connection.sendall(b'{"execute": "guest-shutdown"}\n')
            self.process.wait(60)


@contextmanager
def booted(
    image: Path,
    directory: Path,
    *,
    seed: Path,
    disks: Mapping[str, Path] | None = None,
    memory_mib: int = 128,
) -> Iterator[PlainGuest]:
    """A guest on an overlay of `image` (made in `directory` if it is not there), up; killed at the end."""
    directory.mkdir(exist_ok=True)
    root = directory / "root.qcow2"
    if not root.exists():
        processes.run(
            ("qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", root, f"{_grown(image)}")
        )
    argv = ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "qemu64", "-m", str(memory_mib)]
    argv += ["-nodefaults", "-display", "none", "-serial", f"file:{directory / 'console'}"]
    argv += ["-device", "virtio-serial-pci", "-chardev"]
    argv += [f"socket,id=agent,path={directory / 'agent'},server=on,wait=off"]
    argv += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
    argv += ["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"]
    argv += ["-netdev", "user,id=nic,restrict=on", "-device", "virtio-net-pci,netdev=nic"]
    every = [("root", root, "qcow2", "off"), ("seed", seed, "raw", "on")]
    every += [(serial, path, "raw", "off") for serial, path in (disks or {}).items()]
    for serial, path, disk_format, read_only in every:
        argv += ["-drive", f"if=none,id={serial},file={path},format={disk_format},readonly={read_only}"]
        argv += ["-device", f"virtio-blk-pci,drive={serial},serial={serial}"]
    process = processes.spawn(processes.dying_with_parent(argv))
    guest = PlainGuest(process, directory)
    try:
        guest.wait_up()
        yield guest
    finally:
        process.kill()
        process.wait()


def make_seed(
    target: Path,
    *,
    hostname: str,
    files: Mapping[str, str],
    users: Sequence[str] = (),
    mounts: Sequence[str] = (),
    user_data: str = "",
) -> Path:
    """A seed disk as the controller makes it, by hand."""
    parts = target.with_suffix(".d")
    (parts / "forkbed").mkdir(parents=True)
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, text in files.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.uname, member.gname = len(text), "root", "root"
            archive.addfile(member, BytesIO(text.encode()))
    contents = {
        "hostname": hostname.encode() + b"\n",
        "instance-id": f"i-{hostname}\n".encode(),
        "files.tar": buffer.getvalue(),
        "users": "".join(f"{line}\n" for line in users).encode(),
        "mounts": "".join(f"{line}\n" for line in mounts).encode(),
    }
    if user_data:
        contents["cloud-init"] = b""
    contents["digest"] = hashlib.sha256(repr(contents).encode()).hexdigest().encode() + b"\n"
    for name, data in contents.items():
        (parts / "forkbed" / name).write_bytes(data)
    (parts / "meta-data").write_text(f"instance-id: i-{hostname}\nlocal-hostname: {hostname}\n")
    (parts / "user-data").write_text(user_data or "#cloud-config\n")
    processes.run(("genisoimage", "-quiet", "-R", "-J", "-V", "cidata", "-o", target, parts))
    return target


def blank_disk(path: Path, size_bytes: int) -> Path:
    """A raw disk without content."""
    path.touch()
    os.truncate(path, size_bytes)
    return path


def _grown(image: Path) -> int:
    """Half as much again as the image's disk."""
    told = json.loads(processes.run(("qemu-img", "info", "--output=json", image)).stdout)
    return int(told["virtual-size"]) * 3 // 2
