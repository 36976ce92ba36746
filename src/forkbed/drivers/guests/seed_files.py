"""What a seed disk holds, as names and bytes. Pure: the same arguments give the same bytes.

Two readers share the disk. Our own images apply `forkbed/…` with one shell script (`seed-apply` in the images'
driver). Foreign images run cloud-init, which reads the NoCloud files `meta-data`, `user-data` and `network-config`;
those say the same as far as cloud-init can.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import posixpath
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from forkbed.core.systems.spec import ResolvedMachine, UserSpec
from forkbed.drivers.guests.keys import KeyPair
from forkbed.ports.guests import SeedContent

_BOUNDARY = "forkbed-part"  # its dash occurs in no base64
_USER_DATA_TYPES = {
    "#cloud-config": "text/cloud-config",
    "#!": "text/x-shellscript",
    "#include": "text/x-include-url",
    "#cloud-boothook": "text/cloud-boothook",
    "## template: jinja": "text/jinja2",
}
_SERIAL_LENGTH = 20


@dataclass(frozen=True, slots=True)
class SeedFile:
    """A file that the guest gets."""

    path: str  # absolute
    data: bytes
    mode: int
    owner: str  # USER:GROUP


def seed_files(
    machine: ResolvedMachine, content: SeedContent, host_key: KeyPair, login_key: str
) -> Mapping[str, bytes]:
    """Everything on the seed disk, by path. `login_key` is the installation's public key."""
    guest_files = list(_guest_files(machine, content, host_key, login_key))
    forkbed = {
        "instance-id": f"{machine.instance_id}\n".encode(),
        "hostname": f"{machine.name}\n".encode(),
        "files.tar": _tar(guest_files, machine.spec.users, host_key.made_at),
        "users": "".join(f"{_user_line(user)}\n" for user in machine.spec.users).encode(),
        "mounts": "".join(f"{line}\n" for line in _mount_lines(machine)).encode(),
    }
    if machine.spec.cloud_init:
        forkbed["cloud-init"] = b""
    files = {f"forkbed/{name}": data for name, data in forkbed.items()}
    files["meta-data"] = _yaml({"instance-id": machine.instance_id, "local-hostname": machine.name})
    files["network-config"] = _yaml(_network_config(machine))
    files["user-data"] = _user_data(machine, guest_files, host_key, login_key)
    # Of all that is there, not of what was declared: the disk of a fork is its original's to the byte.
    files["forkbed/digest"] = f"{_digest_of(files)}\n".encode()
    return files


def _guest_files(
    machine: ResolvedMachine, content: SeedContent, host_key: KeyPair, login_key: str
) -> Iterable[SeedFile]:
    yield SeedFile("/etc/ssh/ssh_host_ed25519_key", host_key.private, 0o600, "root:root")
    yield SeedFile("/etc/ssh/ssh_host_ed25519_key.pub", f"{host_key.public}\n".encode(), 0o644, "root:root")
    root_keys = [login_key, *machine.spec.root_keys]
    yield SeedFile("/root/.ssh/authorized_keys", _lines(root_keys), 0o600, "root:root")
    for user in machine.spec.users:
        path = f"{_home(user)}/.ssh/authorized_keys"
        yield SeedFile(path, _lines(user.keys), 0o600, f"{user.name}:{user.name}")
    for file in machine.spec.files:
        yield SeedFile(file.path, content.files[file.content_hash], file.mode, file.owner)
    for secret in machine.spec.secrets:
        yield SeedFile(secret.path, content.secrets[secret.name], secret.mode, secret.owner)


def _tar(files: Iterable[SeedFile], users: Iterable[UserSpec], made_at: int) -> bytes:
    """The files relative to /. Of their directories only `.ssh` is named; others are made as tar makes them."""
    buffer = io.BytesIO()
    key_directories = {"/root/.ssh": "root:root"}
    key_directories |= {f"{_home(user)}/.ssh": f"{user.name}:{user.name}" for user in users}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, owner in key_directories.items():
            entry = _entry(path, 0o700, owner, made_at)
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)
        for file in files:
            entry = _entry(file.path, file.mode, file.owner, made_at)
            entry.size = len(file.data)
            archive.addfile(entry, io.BytesIO(file.data))
    return buffer.getvalue()


def _entry(path: str, mode: int, owner: str, made_at: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(posixpath.normpath(path).lstrip("/"))
    user, _, group = owner.partition(":")
    # A name wins over a number where the guest knows it; a number as a name means just that.
    entry.uname, entry.gname = user, group or user
    entry.uid, entry.gid = _number(entry.uname), _number(entry.gname)
    entry.mode = mode
    entry.mtime = made_at
    return entry


def _number(name: str) -> int:
    return int(name) if name.isdecimal() else 0


def _home(user: UserSpec) -> str:
    return "/root" if user.name == "root" else f"/home/{user.name}"


def _user_line(user: UserSpec) -> str:
    return ":".join([user.name, "", user.shell, ",".join(user.groups), "sudo" if user.sudo else ""])


def _mount_lines(machine: ResolvedMachine) -> Iterable[str]:
    for serial, mount, filesystem in _mounts(machine):
        yield f"{serial} {mount} {filesystem}"


def _mounts(machine: ResolvedMachine) -> Iterable[tuple[str, str, str]]:
    for volume in machine.volumes[1:]:
        if volume.mount:
            yield f"vol-{volume.name}"[:_SERIAL_LENGTH], volume.mount, volume.filesystem


def _network_config(machine: ResolvedMachine) -> object:
    return {
        "version": 2,
        "ethernets": {
            f"nic{number}": {"match": {"macaddress": nic.mac}, "dhcp4": True}
            for number, nic in enumerate(machine.nics)
        },
    }


def _user_data(
    machine: ResolvedMachine, files: Iterable[SeedFile], host_key: KeyPair, login_key: str
) -> bytes:
    own = b"#cloud-config\n" + _yaml(_cloud_config(machine, files, host_key, login_key))
    if not machine.spec.cloud_init:
        return own
    theirs = machine.spec.cloud_init
    kinds = (kind for start, kind in _USER_DATA_TYPES.items() if theirs.startswith(start))
    parts = [("text/cloud-config", own), (next(kinds, "text/plain"), theirs.encode())]
    lines = [f'Content-Type: multipart/mixed; boundary="{_BOUNDARY}"', "MIME-Version: 1.0", ""]
    for kind, data in parts:
        lines += [f"--{_BOUNDARY}", f'Content-Type: {kind}; charset="utf-8"', "MIME-Version: 1.0"]
        lines += ["Content-Transfer-Encoding: base64", "", base64.encodebytes(data).decode()]
    return "\n".join([*lines, f"--{_BOUNDARY}--", ""]).encode()


def _cloud_config(
    machine: ResolvedMachine, files: Iterable[SeedFile], host_key: KeyPair, login_key: str
) -> dict[str, object]:
    config: dict[str, object] = {
        "hostname": machine.name,
        "disable_root": False,
        "ssh_pwauth": False,
        "ssh_keys": {"ed25519_private": host_key.private.decode(), "ed25519_public": host_key.public},
        "users": [
            {"name": "root", "ssh_authorized_keys": [login_key, *machine.spec.root_keys]},
            *(_cloud_user(user) for user in machine.spec.users),
        ],
        "write_files": [
            {
                "path": file.path,
                "encoding": "b64",
                "content": base64.b64encode(file.data).decode(),
                "permissions": f"{file.mode:04o}",
                "owner": file.owner,
                "defer": True,  # after the users are there
            }
            for file in files
            if not file.path.endswith("/.ssh/authorized_keys")
            and not file.path.startswith("/etc/ssh/ssh_host_")
        ],
    }
    disks = [(f"/dev/disk/by-id/virtio-{serial}", *rest) for serial, *rest in _mounts(machine)]
    if disks:
        config["fs_setup"] = [
            {"device": disk, "filesystem": filesystem, "partition": "none", "overwrite": False}
            for disk, _, filesystem in disks
        ]
        config["mounts"] = [
            [disk, mount, filesystem, "defaults,nofail", "0", "2"] for disk, mount, filesystem in disks
        ]
    return config


def _cloud_user(user: UserSpec) -> dict[str, object]:
    described: dict[str, object] = {
        "name": user.name,
        "shell": user.shell,
        "lock_passwd": True,
        "ssh_authorized_keys": list(user.keys),
    }
    if user.groups:
        described["groups"] = list(user.groups)
    if user.sudo:
        described["sudo"] = "ALL=(ALL:ALL) NOPASSWD: ALL"
    return described


def _yaml(value: object) -> bytes:
    """JSON is YAML, and needs no writer that other code would have to trust."""
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line.strip()}\n" for line in lines).encode()


def _digest_of(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"\0{path}\0{len(files[path])}\0".encode())
        digest.update(files[path])
    return digest.hexdigest()
