"""Fork running machines with plain virsh and qemu-img: what `fork` is measured against. Uses no part of Forkbed.

For each machine, all at the same time: an external snapshot of memory and disks; then for each copy an overlay on the
disks' frozen layers, and the memory's file restored with a description of the copy's own. libvirt refuses to restore
under another name or uuid, so these are written over in the file, at the same length.

A snapshot is taken live, which keeps each machine at an instant of its own; or, for one instant of all, machines are
suspended first, and go on when all snapshots are complete: libvirt has nothing in between.

Run in the lab with a JSON file: `machines` (names of domains), `together` (one instant of all, not each live), `copies`
(how many of each) and `directory`. Prints a line when all copies run, and removes them at the end of its
input. The machines stay on their new overlays in the directory: committing these back while the machine runs failed
here, with "Failed to get write lock".
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

BRIDGE = "plainforkbr"
_HEADER_BYTES = 92  # magic, version, length of the description and more, before the description
_LENGTH_AT = 20


def copy_name(domain: str, number: int) -> str:
    """What a copy is called: as long as its original."""
    return f"p{number}{domain[2:]}"


@dataclass
class Machine:
    """A machine, and its disks that can be written to: by target, the file before the snapshot."""

    domain: str
    directory: Path
    disks: dict[str, str] = field(default_factory=dict)

    def snapshot(self, together: bool) -> None:
        """Keep memory and disks of one instant."""
        words = [] if together else ["--live"]
        for line in run("virsh", "domblklist", self.domain, "--details").splitlines()[2:]:
            if not line.strip():
                continue
            _, _, target, path = line.split(maxsplit=3)
            if path.endswith(".iso"):
                words += ["--diskspec", f"{target},snapshot=no"]
            else:
                self.disks[target] = path.strip()
                words += ["--diskspec", f"{target},snapshot=external,file={self.file(target)}"]
        memory = f"file={self.file('memory')},snapshot=external"
        run("virsh", "snapshot-create-as", self.domain, "--no-metadata", "--memspec", memory, *words)

    def copy_memory(self, number: int) -> None:
        """Each copy needs a file of its own, because its name is in it; the first takes the original's."""
        if number:
            shutil.copyfile(self.file("memory"), self.file(f"memory{number}"))

    def restore(self, number: int) -> None:
        """Have a copy go on from the memory."""
        memory = self.file(f"memory{number or ''}")
        uuid = run("virsh", "domuuid", self.domain).strip()
        changed = f"{uuid[:-1]}{(int(uuid[-1], 16) + 1 + number) % 16:x}"
        write_over(memory, {self.domain: copy_name(self.domain, number), uuid: changed})
        description = ElementTree.fromstring(run("virsh", "save-image-dumpxml", str(memory)))
        for disk in description.iterfind("devices/disk"):
            self._put_on_overlay(disk, number)
        for place, nic in enumerate(description.iterfind("devices/interface")):
            _child(nic, "source").set("bridge", BRIDGE)
            _child(nic, "target").set("dev", f"pf{changed[-6:]}{number}{place}")
        for log in description.iterfind("devices/*/log"):
            log.set("file", str(self.file(f"console{number}")))
        text = self.file(f"description{number}")
        text.write_bytes(ElementTree.tostring(description))
        run("virsh", "restore", str(memory), "--xml", str(text), "--running")
        memory.unlink()

    def end_copy(self, number: int) -> None:
        """Remove a copy with its disks."""
        run("virsh", "destroy", copy_name(self.domain, number))
        for target in self.disks:
            self.file(f"{target}.{number}").unlink()

    def file(self, name: str) -> Path:
        """A file of this machine's."""
        return self.directory / f"{self.domain}.{name}"

    def _put_on_overlay(self, disk: ElementTree.Element, number: int) -> None:
        target = _child(disk, "target").get("dev", "")
        if target not in self.disks:
            return
        overlay = str(self.file(f"{target}.{number}"))
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", self.disks[target], "-F", "qcow2", overlay)
        _child(disk, "source").set("file", overlay)
        for chain in disk.findall("backingStore"):
            disk.remove(chain)


def write_over(memory: Path, words: dict[str, str]) -> None:
    """Write names over those of the same length in the description of a memory's file."""
    with memory.open("r+b") as stream:
        (length,) = struct.unpack_from("=I", stream.read(_HEADER_BYTES), _LENGTH_AT)
        text = stream.read(length)
        for old, new in words.items():
            assert len(old) == len(new)
            text = text.replace(old.encode(), new.encode())
        stream.seek(_HEADER_BYTES)
        stream.write(text)


def _child(element: ElementTree.Element, name: str) -> ElementTree.Element:
    found = element.find(name)
    assert found is not None, name
    return found


def run(*argv: str) -> str:
    """A tool's output; it has to succeed."""
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: {done.stderr}")
    return done.stdout


def at_once(actions: Sequence[Callable[[], object]]) -> None:
    """Do all at the same time."""
    with ThreadPoolExecutor(len(actions)) as pool:
        for future in [pool.submit(action) for action in actions]:
            future.result()


def snapshot(machines: Sequence[Machine], together: bool) -> None:
    """Keep all machines."""
    if together:
        at_once([lambda m=m: run("virsh", "suspend", m.domain) for m in machines])  # type: ignore[misc]
    at_once([lambda m=m: m.snapshot(together) for m in machines])  # type: ignore[misc]
    if together:
        at_once([lambda m=m: run("virsh", "resume", m.domain) for m in machines])  # type: ignore[misc]


def main(plan: str) -> None:
    """Fork, say so, wait, remove."""
    wanted = json.loads(Path(plan).read_text())
    directory = Path(wanted["directory"])
    directory.mkdir(parents=True)
    machines = [Machine(domain, directory) for domain in wanted["machines"]]
    pairs = [(machine, number) for machine in machines for number in range(wanted["copies"])]
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "link", "set", BRIDGE, "up")
    try:
        snapshot(machines, wanted["together"])
        at_once([lambda m=m, n=n: m.copy_memory(n) for m, n in pairs])  # type: ignore[misc]
        at_once([lambda m=m, n=n: m.restore(n) for m, n in pairs])  # type: ignore[misc]
        print("forked", flush=True)
        sys.stdin.read()
        at_once([lambda m=m, n=n: m.end_copy(n) for m, n in pairs])  # type: ignore[misc]
    finally:
        run("ip", "link", "del", BRIDGE)


if __name__ == "__main__":
    main(sys.argv[1])
