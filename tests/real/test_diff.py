"""A disk that a guest's kernel wrote, compared with its image; the guest itself says what is right."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from forkbed.core.diffs.entries import EntryKind
from forkbed.core.diffs.records import FileSystemDifference, Reading
from forkbed.core.diffs.rules import Selection
from forkbed.drivers.filesystems.appliance import Appliance
from forkbed.drivers.filesystems.chains import Chain, OpenLayer
from forkbed.drivers.filesystems.driver import HostDisks
from forkbed.drivers.filesystems.ext4 import Ext4
from forkbed.drivers.filesystems.partitions import partitions
from forkbed.drivers.filesystems.problems import Budget
from forkbed.ports.disks import DiskLayer, DiskQuestion, DiskVersion
from tests.real.bench_host import BenchHost
from tests.unit.drivers import samples

CHANGES = """
set -e
mkdir -p /srv/many/deep
i=0; while [ $i -lt 500 ]; do echo $i >/srv/many/file-with-a-rather-long-name-$i; i=$((i+1)); done
dd if=/dev/urandom of=/srv/big bs=4096 count=1500 2>/dev/null
dd if=/dev/zero of=/srv/sparse bs=1 count=1 seek=3000000 2>/dev/null
ln /srv/big /srv/many/hard
ln -s /etc/passwd /srv/link
mknod /srv/device c 5 1
mkfifo /srv/pipe
mv /srv/many/file-with-a-rather-long-name-7 /srv/many/deep/moved
rm /srv/many/file-with-a-rather-long-name-8
chmod 4711 /etc/hostname
chown 7:8 /etc/passwd
sync
"""
LISTING = "find / -xdev -exec stat -c '%n|%a|%u|%g|%F|%s' {} +"


def test_the_disk_of_a_machine_whose_power_was_cut(bench_host: BenchHost) -> None:
    """What the kernel had only in its journal counts too: nothing was unmounted, nothing frozen."""
    machine = samples.machine("boss", number=1, data=False)
    image = Path(bench_host.image.path)
    try:
        bench_host.boot(machine)
        status, _, errors = bench_host.run(machine, "sh", "-c", CHANGES)
        assert status == 0, errors
        status, listed, errors = bench_host.run(machine, "sh", "-c", f"{LISTING}; sync")
        assert status == 0, errors
        bench_host.hypervisor.force_off(machine.id)
        layers = tuple(DiskLayer(path) for path in bench_host.volumes.chain(machine.volumes[0].id))
        question = DiskQuestion(DiskVersion(layers[-1:]), DiskVersion(layers), selection=Selection(noise=()))
        found = HostDisks(Appliance(Path("/nonexistent"), lambda: False)).compare(
            question, "volume boss/root"
        )
    finally:
        bench_host.discard(machine)
    assert found.complete, found
    (one,) = found.file_systems
    assert one.reading is Reading.COMPARED
    _agrees(one, _paths(image), listed.decode())


def _agrees(one: FileSystemDifference, before: set[str], listed: str) -> None:
    """The image's paths with the changes applied are those that the guest lists, with what the guest says of them."""
    told = dict(line.split("|", 1) for line in listed.splitlines())
    after = set(before)
    for change in one.files:
        (after.discard if change.right is None else after.add)(change.path)
        if change.right is not None and not change.path.startswith(
            ("/var/log", "/proc", "/sys", "/dev", "/run")
        ):
            mode, uid, gid, kind, size = told[change.path].split("|")
            entry = change.right
            assert (f"{entry.mode:o}", entry.uid, entry.gid) == (mode, int(uid), int(gid)), change
            assert (entry.kind is EntryKind.DIRECTORY) == (kind == "directory"), change
            assert entry.kind is not EntryKind.FILE or entry.size_bytes == int(size), change
    assert after == {path if path == "/" else path.rstrip("/") for path in told}
    entries: Mapping[str, object] = {change.path: change for change in one.files}
    assert {"/srv/big", "/srv/many/hard", "/srv/many/deep/moved", "/etc/hostname", "/etc/passwd"} <= set(
        entries
    )
    assert "/srv/many/file-with-a-rather-long-name-8" not in entries


def _paths(image: Path) -> set[str]:
    descriptor = os.open(image, os.O_RDONLY)
    try:
        chain = Chain([OpenLayer(str(image), "qcow2", descriptor)])
        places = partitions(chain.read, chain.size_bytes)
        assert places is not None
        tree = Ext4(places[0].reader(chain.read), Budget(60, 100_000, 64))
        return {"/" + os.fsdecode(path) for path in tree.paths()}
    finally:
        os.close(descriptor)
