"""Whole disks compared: what was changed is told, nothing else, and as quickly asked as slowly."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from forkbed.base.errors import OperationalError
from forkbed.core.diffs.entries import Change, EntryKind, Facet, How
from forkbed.core.diffs.limits import Limits
from forkbed.core.diffs.records import (
    DiskDifference,
    FileSystemDifference,
    PackageChange,
    Reading,
    ServiceChange,
)
from forkbed.core.diffs.rules import Selection
from forkbed.core.diffs.threeway import Standing
from forkbed.drivers import processes
from forkbed.drivers.filesystems import driver
from forkbed.ports.disks import DiskQuestion
from tests.unit.diffs.disks import (
    DISKS,
    EVERYTHING,
    MIB,
    compared,
    edit_ext4,
    make_ext4,
    overlay,
    partitioned,
    version,
)

STATUS = """Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2-1

Package: nginx
Status: {nginx}
Architecture: amd64
Version: {version}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A file system's content, with what a Debian system has and what is difficult."""
    root = tmp_path / "tree"
    for directory in (
        "etc/systemd/system/multi-user.target.wants",
        "var/lib/dpkg",
        "var/log",
        "srv/deep/er",
        "many",
    ):
        (root / directory).mkdir(parents=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/passwd").write_text("root:x:0:0\n")
    (root / "etc/large").write_bytes(b"x" * 300_000)
    (root / "etc/sparse").write_bytes(b"start")
    os.truncate(root / "etc/sparse", 5 * MIB)
    (root / "etc/link").symlink_to("hosts")
    (root / "etc/long-link").symlink_to("/" + "far/" * 40)
    (root / "etc/systemd/system/multi-user.target.wants/old.service").symlink_to(
        "/lib/systemd/system/old.service"
    )
    (root / "var/lib/dpkg/status").write_text(STATUS.format(nginx="install ok installed", version="1.22-1"))
    (root / "var/log/syslog").write_text("booted\n")
    for number in range(400):
        (root / f"many/file-with-a-longer-name-{number}").write_text(f"{number}\n")
    os.mkfifo(root / "srv/pipe")
    return root


def only(disk: DiskDifference) -> FileSystemDifference:
    (found,) = disk.file_systems
    return found


def told(one: FileSystemDifference) -> dict[str, tuple[Standing, Change | None, Change | None]]:
    return {change.path: (change.standing, change.left_change, change.right_change) for change in one.files}


@pytest.fixture
def image(tmp_path: Path, tree: Path) -> Path:
    return make_ext4(tmp_path / "image.raw", tree)


def changed(tmp_path: Path, image: Path, name: str, commands: list[str]) -> Path:
    """An overlay on the image in which debugfs changed something."""
    content = tmp_path / f"{name}-content.raw"
    content.write_bytes(image.read_bytes())
    edit_ext4(content, commands)
    return overlay(tmp_path / f"{name}.qcow2", image, content)


def test_each_facet_of_each_side_is_told(tmp_path: Path, image: Path) -> None:
    (tmp_path / "new").write_text("new content\n")
    left = changed(
        tmp_path,
        image,
        "left",
        [
            f"write {tmp_path}/new srv/added",
            "rm etc/passwd",
            "sif etc/hosts mode 0100600",
            "ea_set etc/large user.origin elsewhere",
            "cd srv",
            "mknod null c 1 3",
            "cd /",
            "sif many/file-with-a-longer-name-7 uid 70000",
        ],
    )
    right = changed(
        tmp_path,
        image,
        "right",
        [
            "rm etc/hosts",
            f"write {tmp_path}/new etc/hosts",
            "rm etc/link",
            "symlink etc/link passwd",
            "rm etc/passwd",
            "rm srv/pipe",
            "mkdir srv/pipe",
        ],
    )
    one = only(compared(image, left, right))
    assert (one.place, one.kind, one.reading, one.problems) == ("whole disk", "ext4", Reading.COMPARED, ())
    changed_ = How.CHANGED
    assert told(one) == {
        "/srv/added": (Standing.LEFT, Change(How.ADDED), None),
        "/srv/null": (Standing.LEFT, Change(How.ADDED), None),
        "/etc/passwd": (Standing.BOTH, Change(How.REMOVED), Change(How.REMOVED)),
        "/etc/hosts": (
            Standing.CONFLICT,
            Change(changed_, (Facet.MODE,)),
            Change(changed_, (Facet.CONTENT,)),
        ),
        "/etc/large": (Standing.LEFT, Change(changed_, (Facet.XATTRS,)), None),
        "/many/file-with-a-longer-name-7": (Standing.LEFT, Change(changed_, (Facet.OWNER,)), None),
        "/etc/link": (Standing.RIGHT, None, Change(changed_, (Facet.TARGET,))),
        "/srv/pipe": (Standing.RIGHT, None, Change(changed_, (Facet.KIND,))),
    }
    entries = {change.path: change for change in one.files}
    assert (null := entries["/srv/null"].left) is not None
    assert (null.kind, null.device) == (EntryKind.CHARACTER_DEVICE, "1:3")
    assert (owned := entries["/many/file-with-a-longer-name-7"].left) is not None and owned.uid == 70000
    assert (large := entries["/etc/large"].left) is not None
    assert large.xattrs == (("user.origin", "elsewhere"),)
    assert one.counts.conflicts == 1


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_random_changes_are_found_with_and_without_shared_layers(
    tmp_path: Path, tree: Path, kind: str
) -> None:
    """What is taken from the shared layers without looking must be what looking finds."""
    image = make_ext4(tmp_path / "image.raw", tree, kind=kind)
    source = random.Random(kind)
    left, right = (
        changed(tmp_path, image, side, random_edits(tmp_path, source)) for side in ("left", "right")
    )
    found = only(compared(image, left, right))
    flat = []
    for path in (image, left, right):
        flat.append(tmp_path / f"flat-{path.stem}.raw")
        processes.run(["qemu-img", "convert", "-O", "raw", path, flat[-1]])
    question = DiskQuestion(version(flat[1]), version(flat[2]), version(flat[0]), EVERYTHING)
    slowly = only(DISKS.compare(question, "volume test"))
    assert found == slowly
    assert len(found.files) > 20
    assert found.reading is Reading.COMPARED


def random_edits(scratch: Path, source: random.Random) -> list[str]:
    commands = []
    removed: set[int] = set()
    for step in range(25):
        number = source.randrange(400)
        name = f"many/file-with-a-longer-name-{number}"
        if number in removed:
            continue
        match source.randrange(5):
            case 0:
                removed.add(number)
                commands.append(f"rm {name}")
            case 1:
                (scratch / f"content-{step}").write_bytes(source.randbytes(source.randrange(1, 200_000)))
                commands += [f"rm {name}", f"write {scratch}/content-{step} {name}"]
            case 2:
                commands.append(f"sif {name} gid {source.randrange(1, 70000)}")
            case 3:
                commands += [f"mkdir srv/new{step}", f"ln {name} srv/new{step}/hard"]
            case 4:
                removed.add(number)
                commands += [f"ln {name} srv/deep/er/moved{step}", f"unlink {name}"]
    return commands


def test_content_that_changed_behind_an_unchanged_inode_is_found(tmp_path: Path, image: Path) -> None:
    content = bytearray(image.read_bytes())
    at = content.index(b"127.0.0.1 localhost")
    content[at : at + 3] = b"128"
    (tmp_path / "poked.raw").write_bytes(content)
    right = overlay(tmp_path / "right.qcow2", image, tmp_path / "poked.raw")
    assert told(only(compared(image, None, right))) == {
        "/etc/hosts": (Standing.RIGHT, None, Change(How.CHANGED, (Facet.CONTENT,)))
    }


def test_packages_services_and_noise(tmp_path: Path, image: Path) -> None:
    for name, nginx, number in (
        ("left", "deinstall ok config-files", "1.22-1"),
        ("right", "install ok installed", "1.24-1"),
    ):
        (tmp_path / f"status-{name}").write_text(STATUS.format(nginx=nginx, version=number))
    wants = "etc/systemd/system/multi-user.target.wants"
    left = changed(
        tmp_path,
        image,
        "left",
        ["rm var/lib/dpkg/status", f"write {tmp_path}/status-left var/lib/dpkg/status"],
    )
    right = changed(
        tmp_path,
        image,
        "right",
        [
            "rm var/lib/dpkg/status",
            f"write {tmp_path}/status-right var/lib/dpkg/status",
            f"symlink {wants}/nginx.service /lib/systemd/system/nginx.service",
            f"rm {wants}/old.service",
            "symlink etc/systemd/system/old.service /dev/null",
            "rm var/log/syslog",
        ],
    )
    one = only(compared(image, left, right, Selection()))
    assert one.packages == (PackageChange("nginx", Standing.CONFLICT, "1.22-1", "", "1.24-1"),)
    assert one.services == (
        ServiceChange("nginx.service", Standing.RIGHT, "", "", "enabled"),
        ServiceChange("old.service", Standing.RIGHT, "enabled", "enabled", "masked"),
    )
    assert one.hidden == 2  # the list of packages, the log
    assert "/var/log/syslog" not in told(one)
    asked = only(compared(image, left, right, Selection(("/var/log",))))
    assert list(told(asked)) == ["/var/log/syslog"]


def test_texts(tmp_path: Path, image: Path) -> None:
    (tmp_path / "new").write_text("127.0.0.1 localhost\n10.0.0.1 boss\n")
    right = changed(tmp_path, image, "right", ["rm etc/hosts", f"write {tmp_path}/new etc/hosts"])
    question = DiskQuestion(version(image), version(right, image))
    (text,) = DISKS.texts(question, "volume test", ["/etc/hosts", "/nowhere"])
    assert (text.path, text.left) == ("/etc/hosts", ())
    assert text.right == ("@@ -1 +1,2 @@", " 127.0.0.1 localhost", "+10.0.0.1 boss")


@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_partitions_are_told_apart_and_what_cannot_be_read_is_said(
    tmp_path: Path, tree: Path, label: str
) -> None:
    parts = [make_ext4(tmp_path / "one.raw", tree), make_ext4(tmp_path / "two.raw", tree)]
    other = tmp_path / "three.raw"
    other.write_bytes(b"LUKS\xba\xbe" + bytes(MIB))
    disk = partitioned(tmp_path / "disk.raw", [*parts, other], label=label)
    edit_ext4(parts[1], ["rm etc/passwd"])
    other.write_bytes(b"LUKS\xba\xbe" + b"1" * MIB)
    after = partitioned(tmp_path / "after.raw", [*parts, other], label=label)
    head = disk.read_bytes()[:MIB]
    with after.open("r+b") as stream:  # sfdisk draws new ids
        stream.write(head)
    found = compared(disk, None, overlay(tmp_path / "right.qcow2", disk, after))
    first, second, third = found.file_systems
    assert (first.place, first.reading, first.files) == ("partition 1", Reading.SAME, ())
    assert (second.place, list(told(second))) == ("partition 2", ["/etc/passwd"])
    assert (third.reading, third.kind) == (Reading.UNREADABLE, "encrypted (LUKS)")
    assert third.problems and not found.complete
    assert not found.problems or label == "gpt"  # of the second header at the end nothing is asked


def test_a_disk_that_grew_and_a_file_system_that_appeared(tmp_path: Path, image: Path, tree: Path) -> None:
    empty = tmp_path / "empty.raw"
    with empty.open("wb") as stream:
        stream.truncate(16 * MIB)
    right = overlay(tmp_path / "right.qcow2", empty, image)
    one = only(compared(empty, None, right))
    assert {change.standing for change in one.files} == {Standing.RIGHT}
    assert one.counts.right.added == 1 + sum(1 for _ in tree.rglob("*")) + 1  # the root, and lost+found


def test_a_file_system_with_unusual_features(tmp_path: Path, tree: Path) -> None:
    image = make_ext4(
        tmp_path / "image.raw",
        tree,
        "-O",
        "inline_data,ea_inode,meta_bg,^resize_inode,64bit",
        "-I",
        "512",
        "-b",
        "1024",
    )
    (tmp_path / "value").write_bytes(b"v" * 3000)
    right = changed(
        tmp_path,
        image,
        "right",
        [
            "sif etc/hosts mode 0100600",
            f"ea_set -f {tmp_path}/value etc/passwd user.large",
            "rm many/file-with-a-longer-name-9",
        ],
    )
    one = only(compared(image, None, right))
    assert set(told(one)) == {"/etc/hosts", "/etc/passwd", "/many/file-with-a-longer-name-9"}
    assert one.problems == ()


def test_a_hostile_file_system_ends_in_words(tmp_path: Path, image: Path) -> None:
    """Damaged at random where it hurts: an answer comes, or an error that says why, within the bounds."""
    source = random.Random(1)
    limits = Limits(seconds=20, memory_bytes=700 * MIB)
    for round_ in range(6):
        content = bytearray(image.read_bytes())
        for _ in range(source.randrange(1, 60)):
            content[source.randrange(1024, 2 * MIB)] = source.randrange(256)
        damaged = tmp_path / f"damaged-{round_}.raw"
        damaged.write_bytes(content)
        right = overlay(tmp_path / f"right-{round_}.qcow2", image, damaged)
        question = DiskQuestion(version(image), version(right, image), None, EVERYTHING, limits)
        one = only(DISKS.compare(question, "volume test"))
        assert one.reading is not Reading.UNREADABLE or one.problems


def test_a_directory_within_itself_is_told(tmp_path: Path, image: Path) -> None:
    right = changed(tmp_path, image, "right", ["ln srv srv/deep/er/again"])
    one = only(compared(image, None, right))
    assert one.reading is Reading.PARTLY
    assert "second name" in one.problems[0]


@pytest.mark.parametrize(
    ("features", "size"),
    [("^64bit,^metadata_csum", 4096), ("64bit,metadata_csum", 1024), ("64bit,metadata_csum", 4096)],
)
def test_what_only_a_journal_holds_is_seen(tmp_path: Path, tree: Path, features: str, size: int) -> None:
    """A disk whose changes are in its journal only, as one that was cut without quiescing, is as the changed one."""
    image = make_ext4(tmp_path / "image.raw", tree, "-O", features, "-b", str(size))
    (tmp_path / "new").write_bytes(bytes.fromhex("c03b3998") + b"the journal's own mark\n" * 500)
    commands = ["rm etc/passwd", f"write {tmp_path}/new srv/added", "sif etc/hosts uid 5", "mkdir srv/new"]
    changed_at_once = only(compared(image, None, changed(tmp_path, image, "right", commands)))
    before, after = image.read_bytes(), (tmp_path / "right-content.raw").read_bytes()
    blocks = [
        at // size for at in range(0, len(before), size) if before[at : at + size] != after[at : at + size]
    ]
    held = tmp_path / "held"
    held.write_bytes(b"".join(after[block * size : (block + 1) * size] for block in blocks))
    journaled = tmp_path / "journaled.raw"
    journaled.write_bytes(before)
    listed = ",".join(map(str, blocks))
    edit_ext4(journaled, ["jo" if "^" in features else "jo -c", f"jw -b {listed} {held}", "jc"])
    one = only(compared(image, None, overlay(tmp_path / "unquiesced.qcow2", image, journaled)))
    assert one.problems == ()
    assert one.files == changed_at_once.files
    assert len(one.files) == 4


@pytest.fixture
def discs(tmp_path: Path, tree: Path) -> tuple[Path, Path]:
    """Two versions of an ISO 9660 file system, which The Sleuth Kit reads."""
    (tree / "srv/pipe").unlink()
    made = []
    for name in ("before", "after"):
        made.append(tmp_path / f"{name}.raw")
        processes.run(["genisoimage", "-quiet", "-J", "-o", made[-1], tree])
        (tree / "etc/hosts").write_text("127.0.0.1 localhost boss\n")
        (tree / "srv/added").write_text("new\n")
        (tree / "etc/passwd").unlink(missing_ok=True)
    return made[0], made[1]


def test_file_systems_of_the_library(tmp_path: Path, discs: tuple[Path, Path]) -> None:
    one = only(compared(discs[0], None, overlay(tmp_path / "right.qcow2", *discs)))
    assert (one.kind, one.reading, one.problems) == ("iso9660", Reading.COMPARED, ())
    kinds = {change.path: change.right_change and change.right_change.how for change in one.files}
    assert kinds == {"/etc/hosts": How.CHANGED, "/etc/passwd": How.REMOVED, "/srv/added": How.ADDED}


def test_a_crash_of_the_library_is_said(
    tmp_path: Path, discs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing = (
        "import io, json, sys; question = sys.stdin.read(); sys.stdin = io.StringIO(question)\n"
        "if json.loads(question)['with_library']: import ctypes; ctypes.string_at(0)\n"
        "from forkbed.drivers.filesystems.worker import main; main()"
    )
    monkeypatch.setattr(driver, "_worker", lambda limits: (sys.executable, "-c", crashing))
    one = only(compared(discs[0], None, overlay(tmp_path / "right.qcow2", *discs)))
    assert one.reading is Reading.UNREADABLE
    assert "crashed" in one.problems[0]


def test_a_worker_that_answers_nonsense_is_an_error(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_worker", lambda limits: ("sh", "-c", "cat >&2; echo '{\"disk\": 5}'"))
    with pytest.raises(OperationalError, match="cannot be compared"):
        compared(image, None, image)


def test_a_layer_that_is_gone_is_an_error(tmp_path: Path, image: Path) -> None:
    with pytest.raises(OperationalError, match=r"gone\.qcow2"):
        compared(image, None, tmp_path / "gone.qcow2")


def test_bounds_of_time_and_names_are_said(tmp_path: Path, image: Path) -> None:
    right = changed(tmp_path, image, "right", ["rm etc/hosts", "rm etc/passwd", "rm etc/large"])
    for limits, said in (
        (Limits(seconds=0), "within 0 s"),
        (Limits(entries=100), "more than 100 names"),
    ):
        question = DiskQuestion(version(image), version(right, image), None, EVERYTHING, limits)
        one = only(DISKS.compare(question, "volume test"))
        assert one.reading is Reading.UNREADABLE
        assert said in one.problems[0]
    question = DiskQuestion(version(image), version(right, image), None, EVERYTHING, Limits(listed=2))
    one = only(DISKS.compare(question, "volume test"))
    assert (len(one.files), one.unlisted, one.counts.right.removed) == (2, 1, 3)
