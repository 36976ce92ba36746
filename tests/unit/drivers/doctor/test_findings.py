from __future__ import annotations

from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.config.settings import Settings
from forkbed.drivers.doctor import host, programs
from forkbed.drivers.doctor.checks import all_checks
from forkbed.drivers.doctor.findings import Check, Finding, Verdict, examine, ok

ROOT = Path(__file__).parents[4]


def test_findings_keep_the_order_and_each_is_heard_of_once() -> None:
    heard: list[str] = []
    checks = [Check(name, lambda name=name: ok(name, "fine")) for name in "abcdefgh"]  # type: ignore[misc]
    findings = examine(checks, lambda finding: heard.append(finding.check))
    assert [finding.check for finding in findings] == list("abcdefgh")
    assert sorted(heard) == list("abcdefgh")


def test_a_check_that_cannot_be_made_has_failed_with_its_remedy() -> None:
    def broken() -> Finding:
        raise OperationalError(Kind.FAULT, "tool", "is not installed", "install it")

    (finding,) = examine([Check("thing", broken)])
    assert (finding.check, finding.verdict) == ("thing", Verdict.FAIL)
    assert finding.evidence == "tool: is not installed"
    assert finding.remedy == "install it"


def test_every_check_has_a_name_of_its_own() -> None:
    names = [check.name for check in all_checks(Settings())]
    assert len(names) == len(set(names))


def test_missing_programs_are_named_with_their_packages() -> None:
    finding = programs.examine_programs(lambda name: None if name in ("nft", "ssh", "ssh-keygen") else name)
    assert finding.verdict is Verdict.FAIL
    assert finding.evidence == "not installed: nft, ssh, ssh-keygen"
    assert finding.remedy.endswith("nftables openssh-client")


def test_set_up_installs_every_program_that_is_used() -> None:
    listed = {
        line.split("#")[0].strip() for line in (ROOT / "setup/apt-packages.txt").read_text().splitlines()
    }
    assert set(programs.PACKAGES.values()) <= listed


@pytest.mark.parametrize(
    ("available_kb", "verdict"), [(100_000, Verdict.FAIL), (1_000_000, Verdict.WARN), (9_000_000, Verdict.OK)]
)
def test_memory_is_judged_by_what_is_available(tmp_path: Path, available_kb: int, verdict: Verdict) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal:  99 kB\nMemAvailable:   {available_kb} kB\n")
    assert host.examine_memory(meminfo).verdict is verdict


def test_space_is_looked_up_where_the_directory_will_be(tmp_path: Path) -> None:
    finding = host.examine_space("state", tmp_path / "not" / "yet")
    assert str(tmp_path / "not" / "yet") in finding.evidence


def test_kernel_settings_name_what_they_cost(tmp_path: Path) -> None:
    (tmp_path / "net/ipv4").mkdir(parents=True)
    (tmp_path / "vm").mkdir()
    forward, faults = tmp_path / "net/ipv4/ip_forward", tmp_path / "vm/unprivileged_userfaultfd"
    forward.write_text("0\n")
    faults.write_text("1\n")
    finding = host.examine_kernel_settings(tmp_path)
    assert finding.verdict is Verdict.WARN
    assert "published ports" in finding.evidence
    assert "userfaultfd" not in finding.evidence
    forward.write_text("1\n")
    assert host.examine_kernel_settings(tmp_path).verdict is Verdict.OK


def test_apparmor_without_our_rules_is_told(tmp_path: Path) -> None:
    switch, rule = tmp_path / "enabled", tmp_path / "libvirt-qemu"
    assert host.examine_apparmor(switch, rule).verdict is Verdict.OK
    switch.write_text("Y\n")
    assert host.examine_apparmor(switch, rule).verdict is Verdict.WARN
    rule.write_text("# forkbed\n")
    assert host.examine_apparmor(switch, rule).verdict is Verdict.OK


def test_a_missing_fuse_device_is_a_warning(tmp_path: Path) -> None:
    assert host.examine_fuse(tmp_path / "fuse").verdict is Verdict.WARN
