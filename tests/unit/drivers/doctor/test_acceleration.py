from __future__ import annotations

from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers import processes
from forkbed.drivers.doctor import proof_guest
from forkbed.drivers.doctor.acceleration import Acceleration, Accelerator, prove_acceleration

HANGS = OperationalError(Kind.UNREACHABLE, "a guest under KVM", "no end after 10 s")


class Host:
    """A host on which guests boot only with some accelerators; counts how often one is tried."""

    def __init__(self, tmp_path: Path, *working: Accelerator) -> None:
        self.cache_dir = tmp_path / "cache"
        self.kernel = tmp_path / "vmlinuz"
        self.device = tmp_path / "kvm"
        self.device.touch()
        self.working = working
        self.tried: list[Accelerator] = []

    def boot(self, accelerator: Accelerator, kernel: Path, timeout_s: float) -> str:
        assert kernel == self.kernel
        self.tried.append(accelerator)
        if accelerator not in self.working:
            raise HANGS
        return "guest is up"

    def prove(self) -> Acceleration:
        return prove_acceleration(self.cache_dir, kernel=self.kernel, device=self.device, boot=self.boot)


def test_a_guest_that_boots_with_kvm_proves_it(tmp_path: Path) -> None:
    host = Host(tmp_path, Accelerator.KVM, Accelerator.TCG)
    assert host.prove() == Acceleration(Accelerator.KVM, True, "guest is up")
    assert host.tried == [Accelerator.KVM]


def test_a_device_with_which_no_guest_boots_does_not_count(tmp_path: Path) -> None:
    host = Host(tmp_path, Accelerator.TCG)
    found = host.prove()
    assert (found.accelerator, found.proven) == (Accelerator.TCG, True)
    assert "no end after 10 s" in found.reason


def test_without_the_device_kvm_is_not_tried(tmp_path: Path) -> None:
    host = Host(tmp_path, Accelerator.KVM, Accelerator.TCG)
    host.device.unlink()
    assert host.prove().accelerator is Accelerator.TCG
    assert host.tried == [Accelerator.TCG]


def test_the_proof_is_kept_until_the_circumstances_change(tmp_path: Path) -> None:
    host = Host(tmp_path, Accelerator.TCG)
    assert host.prove() == host.prove()
    assert host.tried == [Accelerator.KVM, Accelerator.TCG]
    host.device.unlink()
    host.prove()
    assert host.tried == [Accelerator.KVM, Accelerator.TCG, Accelerator.TCG]


def test_a_damaged_note_is_proven_again(tmp_path: Path) -> None:
    host = Host(tmp_path, Accelerator.KVM)
    host.prove()
    (host.cache_dir / "acceleration.json").write_text('{"circumstances": ')
    assert host.prove().accelerator is Accelerator.KVM
    assert len(host.tried) == 2


def test_a_host_on_which_nothing_boots_is_a_failure(tmp_path: Path) -> None:
    host = Host(tmp_path)
    with pytest.raises(OperationalError) as caught:
        host.prove()
    assert caught.value is HANGS
    assert not (host.cache_dir / "acceleration.json").exists()


def test_without_a_kernel_nothing_is_proven_or_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof_guest, "find_kernel", lambda cache_dir: None)
    found = prove_acceleration(tmp_path)
    assert (found.accelerator, found.proven) == (Accelerator.TCG, False)
    assert not (tmp_path / "acceleration.json").exists()


def test_the_newest_kernel_is_taken_by_number(tmp_path: Path) -> None:
    for name in ("vmlinuz-6.1.0-9-amd64", "vmlinuz-6.1.0-10-amd64", "config-6.9"):
        (tmp_path / name).touch()
    assert proof_guest.find_kernel(tmp_path / "cache", tmp_path) == tmp_path / "vmlinuz-6.1.0-10-amd64"


def test_there_may_be_no_kernel(tmp_path: Path) -> None:
    assert proof_guest.find_kernel(tmp_path / "cache", tmp_path) is None


def test_cpio_can_read_the_archive(tmp_path: Path) -> None:
    members = [("bin", 0o040755, b""), ("bin/tool", 0o100755, b"12345"), ("init", 0o100755, b"#!/bin/sh\n")]
    listing = processes.run(
        ["cpio", "--list", "--verbose", "--numeric-uid-gid"], input=proof_guest.archive(members)
    ).text
    rows = [line.split() for line in listing.splitlines()]
    assert [(row[0], row[2], row[4], row[-1]) for row in rows] == [
        ("drwxr-xr-x", "0", "0", "bin"),
        ("-rwxr-xr-x", "0", "5", "bin/tool"),
        ("-rwxr-xr-x", "0", "10", "init"),
    ]
