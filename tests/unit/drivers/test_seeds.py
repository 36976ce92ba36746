"""What a seed disk holds, and that it is made once, readable by nobody else, and the same every time."""

from __future__ import annotations

import base64
import email
import io
import json
import os
import stat
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import InstallationId, MachineId
from forkbed.core.systems.spec import FileSpec, ResolvedMachine, SecretSpec, UserSpec
from forkbed.core.systems.steps import Effect
from forkbed.drivers import processes
from forkbed.drivers.guests.keys import KeyPair, KeyStore
from forkbed.drivers.guests.seed_files import seed_files
from forkbed.drivers.guests.seeds import SeedStore
from forkbed.ports.guests import SeedContent
from tests.unit.drivers import samples

HOST_KEY = KeyPair(b"PRIVATE\n", "ssh-ed25519 AAAAhost instance-1", 1_700_000_000)
LOGIN = "ssh-ed25519 AAAAlogin forkbed-t0st"
CONTENT = SeedContent("boss-ops", {"h1": b"print('hi')\n"}, {"token": b"s3cret"})


def machine(**spec: object) -> ResolvedMachine:
    given: dict[str, object] = {
        "files": (FileSpec("/opt/app/main.py", "h1", 0o755, "ann:staff"),),
        "secrets": (SecretSpec("/etc/app/token", "token", "v1"),),
        "users": (
            UserSpec("ann", ("ssh-ed25519 AAAAann",), ("wheel", "www"), True, "/bin/bash"),
            UserSpec("bob"),
        ),
        "root_keys": ("ssh-ed25519 AAAAroot",),
    }
    return samples.machine(**(given | spec))  # type: ignore[arg-type]


def files_of(of: ResolvedMachine) -> Mapping[str, bytes]:
    return seed_files(of, CONTENT, HOST_KEY, LOGIN)


def unpacked(archive: bytes) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {}
        for entry in tar:
            reader = tar.extractfile(entry)
            found[entry.name] = (entry, reader.read() if reader else b"")
        return found


def test_our_own_images_get_files_with_owners_and_modes() -> None:
    entries = unpacked(files_of(machine())["forkbed/files.tar"])
    described = {
        name: (entry.uname, entry.gname, f"{entry.mode:o}", data) for name, (entry, data) in entries.items()
    }
    assert described == {
        "root/.ssh": ("root", "root", "700", b""),
        "home/ann/.ssh": ("ann", "ann", "700", b""),
        "home/bob/.ssh": ("bob", "bob", "700", b""),
        "etc/ssh/ssh_host_ed25519_key": ("root", "root", "600", b"PRIVATE\n"),
        "etc/ssh/ssh_host_ed25519_key.pub": ("root", "root", "644", b"ssh-ed25519 AAAAhost instance-1\n"),
        "root/.ssh/authorized_keys": ("root", "root", "600", f"{LOGIN}\nssh-ed25519 AAAAroot\n".encode()),
        "home/ann/.ssh/authorized_keys": ("ann", "ann", "600", b"ssh-ed25519 AAAAann\n"),
        "home/bob/.ssh/authorized_keys": ("bob", "bob", "600", b""),
        "opt/app/main.py": ("ann", "staff", "755", b"print('hi')\n"),
        "etc/app/token": ("root", "root", "600", b"s3cret"),
    }
    assert entries["home/ann/.ssh"][0].isdir()


def test_our_own_images_get_lines_for_users_and_mounts() -> None:
    files = files_of(machine())
    assert files["forkbed/instance-id"] == b"instance-1\n"
    assert files["forkbed/hostname"] == b"boss\n"
    assert files["forkbed/users"] == b"ann::/bin/bash:wheel,www:sudo\nbob::/bin/sh::\n"
    assert files["forkbed/mounts"] == b"vol-data /srv/data ext4\n"
    assert "forkbed/cloud-init" not in files


def test_foreign_images_get_the_same_through_cloud_init() -> None:
    files = files_of(machine())
    assert json.loads(files["meta-data"]) == {"instance-id": "instance-1", "local-hostname": "boss"}
    first, _, document = files["user-data"].partition(b"\n")
    assert first == b"#cloud-config"
    config = json.loads(document)
    assert config["ssh_keys"] == {"ed25519_private": "PRIVATE\n", "ed25519_public": HOST_KEY.public}
    assert config["users"][0] == {"name": "root", "ssh_authorized_keys": [LOGIN, "ssh-ed25519 AAAAroot"]}
    assert config["users"][1]["name"] == "ann"
    written = {entry["path"]: base64.b64decode(entry["content"]) for entry in config["write_files"]}
    assert written == {"/opt/app/main.py": b"print('hi')\n", "/etc/app/token": b"s3cret"}
    assert config["mounts"][0][:3] == ["/dev/disk/by-id/virtio-vol-data", "/srv/data", "ext4"]
    assert config["fs_setup"][0]["overwrite"] is False
    network = json.loads(files["network-config"])
    assert network["ethernets"]["nic0"] == {"match": {"macaddress": "52:54:00:00:00:01"}, "dhcp4": True}


def test_the_manifests_user_data_comes_as_a_second_part() -> None:
    files = files_of(machine(cloud_init="#!/bin/sh\necho hällo\n"))
    assert files["forkbed/cloud-init"] == b""
    message = email.message_from_bytes(files["user-data"])
    own, theirs = list(message.walk())[1:]
    assert own.get_content_type() == "text/cloud-config"
    assert theirs.get_content_type() == "text/x-shellscript"
    assert theirs.get_payload(decode=True) == "#!/bin/sh\necho hällo\n".encode()


def test_the_guests_digest_changes_with_anything_on_the_disk() -> None:
    def digest(files: Mapping[str, bytes]) -> bytes:
        return files["forkbed/digest"]

    first = digest(files_of(machine()))
    assert first == digest(files_of(machine()))
    assert first != digest(files_of(machine(root_keys=())))
    assert first != digest(seed_files(machine(), CONTENT, HOST_KEY, "another login key"))
    changed = replace(CONTENT, secrets={"token": b"changed"})
    assert first != digest(seed_files(machine(), changed, HOST_KEY, LOGIN))


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "ssh", InstallationId("t0st"))


@pytest.fixture
def seeds(tmp_path: Path, keys: KeyStore) -> SeedStore:
    return SeedStore(tmp_path / "seeds", keys)


def test_a_seed_is_an_iso_that_only_root_reads(seeds: SeedStore, tmp_path: Path) -> None:
    assert seeds.write(machine(), CONTENT, "d1") is Effect.CHANGED
    assert seeds.write(machine(), CONTENT, "d1") is Effect.ALREADY
    attachment = seeds.attachment(machine())
    assert (attachment.serial, attachment.format, attachment.read_only) == ("seed", "raw", True)
    image = Path(attachment.path)
    assert stat.S_IMODE(image.stat().st_mode) == 0o400
    listing = processes.run(["isoinfo", "-R", "-f", "-i", image]).text.split()
    assert "/forkbed/files.tar" in listing
    assert "/user-data" in listing
    assert processes.run(["isoinfo", "-d", "-i", image]).text.count("Volume id: cidata") == 1
    assert processes.run(["isoinfo", "-R", "-x", "/forkbed/hostname", "-i", image]).stdout == b"boss\n"
    assert seeds.digests() == {MachineId("mach1"): "d1"}
    left = sorted(path.name for path in (tmp_path / "seeds").iterdir())
    assert left == ["mach1.iso", "mach1.json"]


def test_a_seed_is_written_anew_when_something_differs(seeds: SeedStore, tmp_path: Path) -> None:
    seeds.write(machine(), CONTENT, "d1")
    assert seeds.write(machine(), CONTENT, "d2") is Effect.CHANGED
    assert seeds.digests() == {MachineId("mach1"): "d2"}
    assert sorted(path.name for path in (tmp_path / "seeds").iterdir()) == ["mach1.iso", "mach1.json"]
    assert seeds.write(machine(), replace(CONTENT, secrets={"token": b"new"}), "d2") is Effect.CHANGED


def test_a_fork_has_its_originals_seed_until_one_of_them_changes(seeds: SeedStore) -> None:
    original = machine()
    fork = replace(original, id=MachineId("mach2"))
    seeds.write(original, CONTENT, "d1")
    seeds.write(fork, CONTENT, "of the fork")
    first, second = (Path(seeds.attachment(of).path) for of in (original, fork))
    assert first.samefile(second)
    seeds.write(original, replace(CONTENT, secrets={"token": b"changed"}), "d2")
    assert not first.samefile(second)
    assert stat.S_IMODE(second.stat().st_mode) == 0o400
    assert seeds.digests() == {original.id: "d2", fork.id: "of the fork"}
    seeds.remove(original.id)
    assert second.exists()


def test_removing_a_seed_keeps_the_host_key_that_a_fork_still_uses(seeds: SeedStore, keys: KeyStore) -> None:
    original = machine()
    fork = replace(samples.machine("boss", number=2), instance_id=original.instance_id)
    seeds.write(original, CONTENT, "d1")
    seeds.write(fork, CONTENT, "d1")
    key = keys.host_key(original.instance_id)
    assert seeds.remove(original.id) is Effect.CHANGED
    assert seeds.remove(original.id) is Effect.ALREADY
    assert keys.host_key(original.instance_id) == key
    seeds.remove(fork.id)
    assert keys.host_key(original.instance_id) != key
    assert seeds.digests() == {}


def test_keys_are_made_once_and_kept_to_root(keys: KeyStore, tmp_path: Path) -> None:
    login = keys.login_key()
    assert login.public.startswith("ssh-ed25519 ")
    assert KeyStore(tmp_path / "ssh", InstallationId("t0st")).login_key() == login
    assert stat.S_IMODE(keys.login_key_path.stat().st_mode) == 0o600
    known = keys.known_hosts_path("instance-1").read_text().split()
    assert known == ["instance-1", *keys.host_key("instance-1").public.split()[:2]]
    assert keys.host_key("instance-1") != keys.host_key("instance-2")
    with pytest.raises(ValueError, match="instance id"):
        keys.host_key("../x")


def test_no_image_stays_that_nobody_would_remove(
    seeds: SeedStore, keys: KeyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, fork = machine(), replace(machine(), id=MachineId("mach2"))
    seeds.write(original, CONTENT, "d1")

    def full(path: Path, _data: bytes) -> None:
        raise OperationalError(Kind.FAULT, str(path), "cannot be written: No space left on device")

    monkeypatch.setattr("forkbed.drivers.guests.seeds.write_durably", full)
    with pytest.raises(OperationalError, match="No space"):
        seeds.write(fork, CONTENT, "d1")
    with pytest.raises(OperationalError, match="No space"):
        seeds.write(original, CONTENT, "d2")
    directory = tmp_path / "seeds"
    assert sorted(path.name for path in directory.iterdir()) == ["mach1.iso", "mach1.json"], (
        "it has one still"
    )
    os.link(directory / "mach1.iso", directory / "mach2.iso")  # as a kill between the two leaves it
    SeedStore(directory, keys)
    assert sorted(path.name for path in directory.iterdir()) == ["mach1.iso", "mach1.json"]
