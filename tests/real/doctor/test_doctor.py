"""The doctor's proofs, made on this machine and in the lab."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forkbed import lab as labs
from forkbed.base.errors import OperationalError
from forkbed.config.settings import load_settings
from forkbed.drivers import processes
from forkbed.drivers.doctor import host, networking, proof_guest
from forkbed.drivers.doctor.acceleration import Accelerator, boot_guest, prove_acceleration
from forkbed.drivers.doctor.findings import Verdict


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian kernel: of an earlier image build, else fetched as one would be."""
    found = proof_guest.find_kernel(load_settings(os.environ).cache_dir)
    if found is None:
        archives = tmp_path_factory.mktemp("cache") / "images/apt/debian/archives"
        archives.mkdir(parents=True)
        depends = processes.run(["apt-cache", "depends", "--important", "linux-image-cloud-amd64"]).text
        package = next(line.split()[1] for line in depends.splitlines() if "Depends: linux-image" in line)
        script = 'cd "$1" && exec apt-get -q download "$2"'
        processes.run(["sh", "-c", script, "sh", archives, package], timeout_s=300)
        found = proof_guest.find_kernel(archives.parents[3])
    assert found is not None
    return found


def test_a_guest_boots_under_emulation(kernel: Path) -> None:
    assert proof_guest.MARK in boot_guest(Accelerator.TCG, kernel, 120)


def test_what_is_no_kernel_does_not_boot(tmp_path: Path) -> None:
    wrong = tmp_path / "vmlinuz"
    wrong.write_bytes(bytes(100_000))
    with pytest.raises(OperationalError, match="a guest under TCG"):
        boot_guest(Accelerator.TCG, wrong, 5)


def test_whatever_is_chosen_was_proven(kernel: Path, tmp_path: Path) -> None:
    found = prove_acceleration(tmp_path, kernel=kernel)
    assert found.proven
    assert found.reason
    assert prove_acceleration(tmp_path, kernel=kernel) == found


def test_networks_can_be_built_here_and_nothing_stays() -> None:
    before = processes.run(["ip", "-brief", "link"]).text
    assert networking.examine_namespaces().verdict is Verdict.OK
    assert networking.examine_filters().verdict is Verdict.OK
    assert processes.run(["ip", "-brief", "link"]).text == before


def test_rules_that_the_kernel_refuses_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networking, "_RULES", "table bridge x { chain fwd { } }\n")
    finding = networking.examine_filters()
    assert finding.verdict is Verdict.FAIL
    assert "syntax error" in finding.evidence


def test_libvirt_of_the_lab_is_reached_and_a_missing_one_is_told(lab: labs.Lab, tmp_path: Path) -> None:
    found = host.examine_libvirt(lab.libvirt_uri)
    assert found.verdict is Verdict.OK
    assert "with QEMU" in found.evidence and "?" not in found.evidence.split(" at ")[0]
    missing = host.examine_libvirt(f"qemu:///system?socket={tmp_path}/none")
    assert missing.verdict is Verdict.FAIL
    assert "forkbed lab up" in missing.remedy
