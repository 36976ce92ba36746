"""A whole host prepared and taken back in a directory, with packages of our own making."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.config.settings import Settings
from forkbed.drivers.hostsetup.host import Host
from forkbed.drivers.hostsetup.packages import removed_by
from forkbed.drivers.hostsetup.plan import HostSpec, Left, Step, UndoStep, WriteFile
from forkbed.drivers.hostsetup.record import load_record, save_record
from forkbed.drivers.hostsetup.wanted import wanted_host

RECORD = "/var/lib/forkbed-prepared.json"
ONLY_FOR_THE_CHECKOUT = set(
    "ca-certificates curl gcc iputils-ping libc6-dev libvirt-dev pkg-config python3 python3-dev python3-venv".split()
)
ROOT = Path(__file__).parents[4]


@dataclass
class FakePackages:
    """Packages in memory; installing one also brings what it depends on."""

    present: set[str] = field(default_factory=lambda: {"base"})
    brings: dict[str, set[str]] = field(default_factory=dict)
    needed_by_others: set[str] = field(default_factory=set)

    def installed(self) -> frozenset[str]:
        return frozenset(self.present)

    def install(self, names: Sequence[str]) -> None:
        for name in names:
            self.present |= {name} | self.brings.get(name, set())

    def remove(self, names: Sequence[str]) -> None:
        if self.needed_by_others & set(names):
            raise OperationalError(Kind.UNSAFE, "packages", "removing them would also remove other")
        self.present -= set(names)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for directory in ("proc/sys/net/ipv4", "proc/sys/vm", "var/lib", "var/cache", "etc"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "proc/sys/net/ipv4/ip_forward").write_text("0\n")
    (tmp_path / "proc/sys/vm/unprivileged_userfaultfd").write_text("0\n")
    return tmp_path


@pytest.fixture
def spec() -> HostSpec:
    return wanted_host(Settings(), Path("/usr/bin/forkbed"))


def contents(root: Path) -> dict[str, str | None]:
    return {
        str(path.relative_to(root)): path.read_text() if path.is_file() else None for path in root.rglob("*")
    }


def ignore(_: Step | UndoStep) -> None:
    return None


def test_a_host_is_prepared_once_and_taken_back_exactly(root: Path, spec: HostSpec) -> None:
    before = contents(root)
    packages = FakePackages(brings={"libvirt-daemon-system": {"polkitd"}})
    host = Host(root, RECORD, packages)
    assert host.prepare(spec, ignore) > 5
    assert host.prepare(spec, ignore) == 0
    assert {"libvirt-daemon-system", "polkitd"} <= packages.present
    assert (root / "proc/sys/net/ipv4/ip_forward").read_text() == "1\n"
    assert (root / "etc/sysctl.d/60-forkbed.conf").read_text().splitlines()[1:] == [
        "net.ipv4.ip_forward = 1",
        "vm.unprivileged_userfaultfd = 1",
    ]
    unit = (root / "etc/systemd/system/forkbed.service").read_text()
    assert "ExecStart=/usr/bin/forkbed serve\n" in unit
    assert "KillMode=process\n" in unit
    assert "/var/lib/forkbed/** rwk," in (root / "etc/apparmor.d/local/abstractions/libvirt-qemu").read_text()
    assert (root / "var/lib/forkbed").stat().st_mode & 0o777 == 0o711
    host.undo(ignore)
    assert contents(root) == before
    assert packages.present == {"base"}
    assert host.plan_undo() == ()


def test_a_host_that_is_killed_half_way_is_finished_or_taken_back(root: Path, spec: HostSpec) -> None:
    before = contents(root)

    class Killed(Exception):
        pass

    for count in range(1, 40):
        packages = FakePackages()
        told: list[Step] = []

        def kill_after(step: Step, told: list[Step] = told, count: int = count) -> None:
            if len(told) == count:
                raise Killed
            told.append(step)

        try:
            Host(root, RECORD, packages).prepare(spec, kill_after)
        except Killed:
            Host(root, RECORD, packages).undo(ignore)
            assert contents(root) == before
            assert packages.present == {"base"}
        else:
            Host(root, RECORD, packages).undo(ignore)
            assert count > 5
            return
    raise AssertionError("it never ended")


def test_data_and_packages_that_others_need_stay(root: Path, spec: HostSpec) -> None:
    packages = FakePackages(needed_by_others={"qemu-utils"})
    host = Host(root, RECORD, packages)
    host.prepare(spec, ignore)
    (root / "var/lib/forkbed/disk").write_text("data")
    told: list[Step | UndoStep] = []
    host.undo(told.append)
    left = {step.what.split()[0]: step.why for step in told if isinstance(step, Left)}
    assert left["/var/lib/forkbed"] == "directory not empty"
    assert "other" in left["packages"]
    assert (root / "var/lib/forkbed/disk").read_text() == "data"
    assert "qemu-utils" in packages.present


def test_a_change_without_effect_is_not_repeated_for_ever(root: Path, spec: HostSpec) -> None:
    packages = FakePackages()
    packages.install = lambda names: None  # type: ignore[method-assign]
    with pytest.raises(OperationalError, match="no effect"):
        Host(root, RECORD, packages).prepare(spec, ignore)


def test_a_change_that_fails_is_told(root: Path, spec: HostSpec) -> None:
    (root / "etc/sysctl.d").write_text("not a directory")
    with pytest.raises(OperationalError, match="could not be made"):
        Host(root, RECORD, None).prepare(replace(spec, packages=()), ignore)


def test_the_record_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    steps = (WriteFile("/etc/x", "new", None), WriteFile("/etc/y", "new", "old"))
    save_record(path, steps)
    assert load_record(path) == steps
    assert load_record(tmp_path / "none") == ()


@pytest.mark.parametrize(
    "text", ["{", '{"format": 9, "steps": []}', '{"format": 1, "steps": [{"kind": "Nonsense"}]}']
)
def test_a_damaged_record_is_a_failure(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(OperationalError, match="cannot be read"):
        load_record(path)


def test_what_apt_would_remove_is_read_from_its_simulation() -> None:
    simulation = (
        "Reading package lists...\nRemv libvirt-daemon [9.0.0-4]\nRemv gnome-boxes [43]\nConf other\n"
    )
    assert removed_by(simulation) == {"libvirt-daemon", "gnome-boxes"}


def test_a_host_gets_what_set_up_installs_for_running(spec: HostSpec) -> None:
    """One list serves the checkout, the other a host: they differ by what is only for building and trying."""
    listed = {
        line.split("#")[0].strip() for line in (ROOT / "setup/apt-packages.txt").read_text().splitlines()
    }
    assert set(spec.packages) - listed == {"libvirt-daemon-system"}
    assert listed - set(spec.packages) - {""} == ONLY_FOR_THE_CHECKOUT
