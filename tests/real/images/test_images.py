"""Images built, booted, derived, imported and refused, with the real tools."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.config.settings import load_settings
from forkbed.drivers import processes
from forkbed.drivers.images.content import hash_file
from forkbed.drivers.images.library import HostImageLibrary
from forkbed.ports.images import ImageView, RecipeBundle
from forkbed.ports.progress import Cancelled, Silence
from tests.real.images.plain_guest import blank_disk, booted, make_seed

MICRO = "version: 1\nname: micro\nbase: micro\n"
MIB = 1024**2


class Listener(Silence):
    """Remembers what was told; `cancel_at` cancels when that is told."""

    def __init__(self, cancel_at: str = "never") -> None:
        self.told: list[str] = []
        self._cancel_at = cancel_at

    def tell(self, message: str, *, done: float | None = None) -> None:
        self.told.append(message)

    def check_cancelled(self) -> None:
        if any(self._cancel_at in message for message in self.told):
            raise Cancelled


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """The machine's own build cache: a base that was built once serves every run."""
    return load_settings(os.environ).cache_dir


@pytest.fixture
def library(tmp_path: Path, cache_dir: Path) -> HostImageLibrary:
    return HostImageLibrary(tmp_path / "state", cache_dir)


@pytest.fixture
def micro(library: HostImageLibrary) -> ImageView:
    return build(library, MICRO)


def build(library: HostImageLibrary, text: str, listener: Silence | None = None) -> ImageView:
    return library.build(RecipeBundle("recipe.yaml", text), "uid 0", 1.0, listener or Silence())


def refused(kind: Kind, words: str, call: Callable[[], object]) -> OperationalError:
    with pytest.raises(OperationalError) as caught:
        call()
    assert caught.value.kind is kind, caught.value
    assert words in f"{caught.value} {caught.value.remedy}"
    return caught.value


def test_the_second_build_does_nothing(library: HostImageLibrary, micro: ImageView) -> None:
    listener = Listener()
    again = build(library, MICRO, listener)
    assert again.id == micro.id
    assert listener.told == ["built before with the same content"]
    assert again.provenance["seed"] == "forkbed"


def test_a_micro_guest_takes_its_seed(library: HostImageLibrary, micro: ImageView, tmp_path: Path) -> None:
    data = blank_disk(tmp_path / "data.raw", 24 * MIB)
    seed = make_seed(
        tmp_path / "seed.iso",
        hostname="alpha",
        files={"/srv/deep/file": "from the seed\n"},
        users=["alice::/bin/sh:lab,users:", "bob:1500:/bin/none::"],
        mounts=["vol-data /data ext4"],
    )
    image = library.file(micro.id).path
    with booted(image, tmp_path / "guest", seed=seed, disks={"vol-data": data}) as guest:
        assert guest.run("cat /run/forkbed/seed-status") == "applied\n"
        assert guest.run("hostname; cat /etc/hostname /srv/deep/file") == "alpha\nalpha\nfrom the seed\n"
        assert (
            guest.run("id alice").strip()
            == "uid=1000(alice) gid=1000(alice) groups=1000(alice),100(users),1001(lab)"
        )
        assert guest.run("grep bob /etc/passwd").strip() == "bob:x:1500:1500::/home/bob:/bin/sh"
        assert guest.run("stat -c %U /home/alice").strip() == "alice"
        size_kib = int(guest.run("df -k / | tail -n 1 | awk '{ print $2 }'"))
        assert size_kib > micro.size_bytes // 1024 * 1.3, "the root file system did not grow with its disk"
        guest.run("echo kept > /data/kept; echo mine > /srv/deep/file; mount | grep -q '/data type ext4'")
        assert guest.agent("guest-fsfreeze-freeze") == 2
        assert guest.agent("guest-fsfreeze-thaw") == 2
        guest.power_off()
    with booted(image, tmp_path / "guest", seed=seed, disks={"vol-data": data}) as guest:
        assert guest.run("cat /run/forkbed/seed-status") == "unchanged\n"
        assert guest.run("cat /data/kept /srv/deep/file") == "kept\nmine\n"
    changed = make_seed(
        tmp_path / "second.iso",
        hostname="alpha",
        files={"/srv/deep/file": "from the second seed\n"},
        mounts=["vol-none /none ext4"],
    )
    with booted(image, tmp_path / "guest", seed=changed, disks={"vol-data": data}) as guest:
        assert guest.run("cat /srv/deep/file") == "from the second seed\n"
        assert "there is no disk vol-none" in guest.run("cat /run/forkbed/seed-status")


def test_a_disk_with_somebodys_data_is_never_formatted(
    library: HostImageLibrary, micro: ImageView, tmp_path: Path
) -> None:
    data = blank_disk(tmp_path / "data.raw", 24 * MIB)
    with data.open("r+b") as stream:
        stream.seek(700_000)
        stream.write(b"a database of its own kind")
    before = data.read_bytes()
    seed = make_seed(tmp_path / "s.iso", hostname="a", files={}, mounts=["vol-data /data ext4"])
    with booted(library.file(micro.id).path, tmp_path / "g", seed=seed, disks={"vol-data": data}) as guest:
        assert guest.run("cat /run/forkbed/seed-status").startswith("failed: vol-data cannot be mounted")
    assert data.read_bytes() == before


def test_an_image_on_an_image(library: HostImageLibrary, micro: ImageView, tmp_path: Path) -> None:
    text = (
        "version: 1\nname: derived\nbase: micro\nsize: 300MiB\n"
        "files: [{path: /srv/www/a, content: 'hello', mode: '0640', owner: 'root:www-data'}]\n"
        "commands: ['cat /srv/www/a > /etc/built', 'test $(id -u) = 0']\n"
    ).replace("base: micro", f"base: {micro.id[:12]}")
    derived = build(library, text)
    assert derived.size_bytes == 300 * MIB
    assert derived.provenance["base_image"] == micro.id
    seed = make_seed(tmp_path / "s.iso", hostname="a", files={})
    with booted(library.file(derived.id).path, tmp_path / "g", seed=seed) as guest:
        assert guest.run("cat /etc/built; stat -c '%a %U %G' /srv/www/a") == "hello640 root www-data\n"


def test_a_failing_command_is_told_in_its_own_words(library: HostImageLibrary) -> None:
    text = MICRO.replace("name: micro", "name: failing") + "commands: ['echo so far; ls /nowhere']\n"
    error = refused(Kind.FAULT, "command 1 of recipe failing", lambda: build(library, text))
    assert error.details == ("so far", "ls: /nowhere: No such file or directory")
    refused(Kind.NOT_FOUND, "no image `failing`", lambda: library.resolve("failing"))


def test_what_does_not_fit_is_refused(library: HostImageLibrary) -> None:
    refused(Kind.INVALID, "larger `size`", lambda: build(library, MICRO + "size: 32MiB\n"))


def test_a_cancelled_build_leaves_nothing(library: HostImageLibrary, cache_dir: Path) -> None:
    text = MICRO.replace("name: micro", "name: slow") + "commands: ['sleep 611']\n"
    with pytest.raises(Cancelled):
        build(library, text, Listener(cancel_at="running command 1"))
    assert left_of_builds(cache_dir, "sleep 611") == []


def test_a_killed_build_leaves_nothing(library: HostImageLibrary, cache_dir: Path, tmp_path: Path) -> None:
    text = MICRO.replace("name: micro", "name: slow") + "commands: ['sleep 612']\n"
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from forkbed.drivers.images.library import HostImageLibrary\n"
        "from forkbed.ports.images import RecipeBundle\nfrom forkbed.ports.progress import Silence\n"
        "HostImageLibrary(Path(sys.argv[1]), Path(sys.argv[2])).build(\n"
        "    RecipeBundle('r', sys.argv[3]), 'a', 1.0, Silence())\n"
    )
    builder = subprocess.Popen((sys.executable, "-c", program, tmp_path / "s", cache_dir, text))
    wait_until(lambda: "sleep 612" in running(), "the build runs its command")
    builder.kill()
    builder.wait()
    wait_until(lambda: left_of_builds(cache_dir, "sleep 612") == [], "nothing is left")
    build(library, MICRO + "size: 272MiB\n")  # and the next build has its turn


def test_formats_come_and_go_with_the_same_identity(
    library: HostImageLibrary, micro: ImageView, tmp_path: Path
) -> None:
    raw, packed = tmp_path / "m.raw", tmp_path / "m.qcow2"
    library.export(micro.id, raw, "raw", Silence())
    library.export(micro.id, packed, "qcow2", Silence())
    assert hash_file(raw) == micro.id
    assert packed.stat().st_size < library.file(micro.id).path.stat().st_size
    for disk_format in ("vmdk", "vdi", "vhdx"):
        processes.run(
            ("qemu-img", "convert", "-f", "raw", "-O", disk_format, raw, tmp_path / f"m.{disk_format}")
        )
    for name in ("m.raw", "m.qcow2", "m.vmdk", "m.vdi", "m.vhdx"):
        assert library.import_file(tmp_path / name, "again:x", "a", 1.0, Silence()).id == micro.id
        whole = (tmp_path / name).read_bytes()
        cut = tmp_path / f"cut.{name}"
        cut.write_bytes(whole[: len(whole) * 2 // 3 // 512 * 512])
        refused(Kind.INVALID, "truncated", partial(library.import_file, cut, "cut", "a", 1.0, Silence()))
    refused(Kind.CONFLICT, "there already", lambda: library.export(micro.id, raw, "raw", Silence()))


def test_files_that_need_other_files_are_refused(library: HostImageLibrary, tmp_path: Path) -> None:
    base, top, outside = tmp_path / "base.qcow2", tmp_path / "top.qcow2", tmp_path / "outside.qcow2"
    processes.run(("qemu-img", "create", "-q", "-f", "qcow2", base, "8M"))
    processes.run(("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top))
    options = f"data_file={tmp_path / 'data.raw'}"
    processes.run(("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, outside, "8M"))
    for file, words in ((top, "backing file"), (outside, "data file"), (tmp_path / "gone", "cannot be read")):
        kind = Kind.NOT_FOUND if file.name == "gone" else Kind.INVALID
        refused(kind, words, partial(library.import_file, file, "x", "a", 1.0, Silence()))
    huge = tmp_path / "huge.qcow2"
    processes.run(("qemu-img", "create", "-q", "-f", "qcow2", huge, "9T"))
    refused(Kind.INVALID, "absurdly", lambda: library.import_file(huge, "x", "a", 1.0, Silence()))
    assert library.images() == []
    assert list((tmp_path / "state/images").glob(".staging-*")) == []


def test_a_foreign_image_can_be_built_upon(
    library: HostImageLibrary, micro: ImageView, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.raw"
    library.export(micro.id, foreign, "raw", Silence())
    with foreign.open("r+b") as stream:  # another disk, of which the cache knows nothing
        stream.seek(600)
        stream.write(os.urandom(8))
    image = library.import_file(foreign, "foreign", "a", 1.0, Silence())
    assert image.id != micro.id
    built = build(library, "version: 1\nname: onto\nbase: foreign\ncommands: ['echo yes > /etc/onto']\n")
    seed = make_seed(tmp_path / "s.iso", hostname="a", files={})
    with booted(library.file(built.id).path, tmp_path / "g", seed=seed) as guest:
        assert guest.run("cat /etc/onto") == "yes\n"


def test_a_base_that_cannot_be_read_is_refused(library: HostImageLibrary, tmp_path: Path) -> None:
    disk = tmp_path / "odd.raw"
    processes.run(("truncate", "-s", "16M", disk))
    processes.run(("sfdisk", "--quiet", disk), input=b"label: dos\nstart=2048, type=83\n")
    library.import_file(disk, "odd", "a", 1.0, Silence())
    text = "version: 1\nname: onto\nbase: odd\ncommands: ['true']\n"
    refused(Kind.INVALID, "no ext2, ext3 or ext4 file system", lambda: build(library, text))


@pytest.mark.full
def test_without_an_archive_what_was_downloaded_before_is_enough(
    library: HostImageLibrary, micro: ImageView, cache_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache/images/apt").mkdir(parents=True)
    processes.run(("cp", "-a", cache_dir / "images/apt/bookworm", tmp_path / "cache/images/apt/"))
    name = f"fbt-off-{os.getpid()}"  # a network namespace that leads nowhere
    processes.run(("ip", "netns", "add", name))
    try:
        cut_off = HostImageLibrary(tmp_path / "other", tmp_path / "cache", Path("/run/netns") / name)
        listener = Listener()
        assert build(cut_off, MICRO, listener).size_bytes == micro.size_bytes
        assert "no archive answers; building from the cache" in listener.told
    finally:
        processes.run(("ip", "netns", "delete", name))


@pytest.mark.full
@pytest.mark.parametrize("base", ["micro", "debian-12"])
def test_the_generic_kernel_boots_too(library: HostImageLibrary, tmp_path: Path, base: str) -> None:
    image = build(library, f"version: 1\nname: generic\nbase: {base}\nkernel: generic\n")
    seed = make_seed(tmp_path / "s.iso", hostname="a", files={})
    with booted(library.file(image.id).path, tmp_path / "g", seed=seed, memory_mib=384) as guest:
        assert guest.run("uname -r").strip().endswith("-amd64")
        assert "cloud" not in guest.run("uname -r")


@pytest.mark.full
def test_a_debian_guest_takes_its_seed(library: HostImageLibrary, tmp_path: Path) -> None:
    image = build(library, "version: 1\nname: debian-12\nbase: debian-12\n")
    data = blank_disk(tmp_path / "data.raw", 320 * MIB)
    seed = make_seed(
        tmp_path / "seed.iso",
        hostname="beta",
        files={"/lib/forkbed-file": "through a link\n"},
        users=["alice::/bin/bash:lab:yes"],
        mounts=["vol-data /data xfs"],
        user_data="#cloud-config\nruncmd: [[touch, /root/cloud-init-ran]]\n",
    )
    with booted(
        library.file(image.id).path, tmp_path / "g", seed=seed, disks={"vol-data": data}, memory_mib=384
    ) as guest:
        assert guest.run("cat /run/forkbed/seed-status") == "applied\n"
        assert guest.run("hostname; cat /usr/lib/forkbed-file") == "beta\nthrough a link\n"
        assert guest.run("su alice -c 'sudo id -u'") == "0\n"
        guest.run("findmnt -t xfs /data")
        guest.run("cloud-init status --wait; test -e /root/cloud-init-ran", timeout_s=120)
        assert guest.run("systemctl --failed --no-legend") == ""
        assert guest.run("ls /etc/ssh/ssh_host_*_key").split() == ["/etc/ssh/ssh_host_ed25519_key"]


def running() -> str:
    return processes.run(("ps", "-eo", "args")).text


def left_of_builds(cache_dir: Path, command: str) -> list[str]:
    """Processes, mounts and loop devices of builds that are still there."""
    staging = str(cache_dir / "images/staging")
    left = [line for line in running().splitlines() if line.endswith(command)]
    left += [line for line in Path("/proc/self/mounts").read_text().splitlines() if staging in line]
    return left + [line for line in processes.run(("losetup", "-a")).text.splitlines() if staging in line]


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.1)
