"""What a host needs to run Forkbed in earnest, with libvirt as a service."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from forkbed.config.settings import Settings
from forkbed.drivers.doctor.programs import PACKAGES as PROGRAM_PACKAGES
from forkbed.drivers.hostsetup.plan import HostSpec

# Beyond the programs that the doctor looks for: libvirt as a service, QEMU's parts, what image builds use.
_FURTHER_PACKAGES = (
    "busybox-static",
    "cpio",
    "debian-archive-keyring",
    "ipxe-qemu",
    "kmod",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "libvirt-daemon-system",
    "procps",
    "seabios",
    "zstd",
)
SYSCTLS = {
    # Machines reach the outside through the host.
    "net.ipv4.ip_forward": "1",
    # QEMU does not run as root under libvirt's service, and a live fork needs write protection of its memory.
    "vm.unprivileged_userfaultfd": "1",
}
_SYSCTL_FILE = "/etc/sysctl.d/60-forkbed.conf"
_UNIT_FILE = "/etc/systemd/system/forkbed.service"
# Where AppArmor is on, it also judges files that libvirt hands to QEMU as open descriptors.
_APPARMOR_FILE = "/etc/apparmor.d/local/abstractions/libvirt-qemu"


def wanted_host(settings: Settings, program: Path) -> HostSpec:
    """What this host shall have; `program` is the `forkbed` command that the service runs."""
    unit = resources.files("forkbed.drivers.hostsetup").joinpath("files/forkbed.service").read_text()
    return HostSpec(
        packages=tuple(sorted({*PROGRAM_PACKAGES.values(), *_FURTHER_PACKAGES})),
        directories={
            # QEMU, which is not root, must get to its disks through it, but need not list it.
            str(settings.state_dir): 0o711,
            str(settings.cache_dir): 0o755,
        },
        files={
            _SYSCTL_FILE: "# Written by `forkbed host prepare`.\n"
            + "".join(f"{name} = {value}\n" for name, value in SYSCTLS.items()),
            _UNIT_FILE: unit.replace("@FORKBED@", str(program)),
        },
        blocks={
            _APPARMOR_FILE: f"  {settings.state_dir}/ r,\n"
            f"  {settings.state_dir}/** rwk,\n"
            f"  {settings.runtime_dir}/** rwk,\n"
        },
        sysctls=SYSCTLS,
    )
