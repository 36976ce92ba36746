"""The Debian image: systemd, ssh, guest agent, DHCP on every card, cloud-init on demand.

Nothing in it runs by the clock, and nothing looks for hardware that a guest does not have.
"""

from __future__ import annotations

import tarfile
import time
from io import BytesIO
from pathlib import Path

from forkbed.drivers.images import guestfiles
from forkbed.drivers.images.guestfiles import AWAKEN, SEED_APPLY, GuestFile, link, write

PACKAGES = (
    "ca-certificates",
    "cloud-init",
    "curl",
    "dbus",
    "e2fsprogs",
    "fdisk",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "netbase",
    "openssh-server",
    "procps",
    "qemu-guest-agent",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "tiny-initramfs",
    "udev",
    "xfsprogs",
)
KERNEL_ARGUMENTS = "console=ttyS0,115200 net.ifnames=0 loglevel=4 systemd.show_status=auto"

_FILES = (
    SEED_APPLY,
    GuestFile("debian/forkbed-seed.service", "etc/systemd/system/forkbed-seed.service"),
    GuestFile("debian/ethernet.network", "etc/systemd/network/80-ethernet.network"),
    GuestFile("debian/resolved.conf", "etc/systemd/resolved.conf.d/forkbed.conf"),
    GuestFile("debian/journald.conf", "etc/systemd/journald.conf.d/forkbed.conf"),
    GuestFile(
        "debian/wait-online.conf", "etc/systemd/system/systemd-networkd-wait-online.service.d/forkbed.conf"
    ),
    GuestFile("debian/sshd.conf", "etc/ssh/sshd_config.d/forkbed.conf"),
    GuestFile("debian/cloud.cfg", "etc/cloud/cloud.cfg.d/90_forkbed.cfg"),
    GuestFile("debian/initramfs.conf", "etc/tiny-initramfs/tiny-initramfs.conf"),
    GuestFile("debian/modprobe.conf", "etc/modprobe.d/forkbed.conf"),
    GuestFile("debian/ssh.conf", "etc/systemd/system/ssh.service.d/forkbed.conf"),
    GuestFile("debian/udev-trigger.conf", "etc/systemd/system/systemd-udev-trigger.service.d/forkbed.conf"),
    GuestFile("debian/late.conf", "etc/systemd/system/systemd-logind.service.d/forkbed.conf"),
    GuestFile("debian/late.conf", "etc/systemd/system/serial-getty@.service.d/forkbed.conf"),
)
_ENABLED = {
    "local-fs.target.wants/forkbed-seed.service": "/etc/systemd/system/forkbed-seed.service",
    "multi-user.target.wants/systemd-networkd.service": "/lib/systemd/system/systemd-networkd.service",
    "sockets.target.wants/systemd-networkd.socket": "/lib/systemd/system/systemd-networkd.socket",
    "network-online.target.wants/systemd-networkd-wait-online.service": (
        "/lib/systemd/system/systemd-networkd-wait-online.service"
    ),
}
# What runs by the clock, looks for hardware that is not there, or only costs time in a guest.
_MASKED = (
    "apt-daily-upgrade.timer apt-daily.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service "
    "fstrim.timer getty@tty1.service getty-static.service systemd-binfmt.service systemd-pstore.service "
    "systemd-repart.service systemd-sysext.service systemd-pcrphase.service systemd-pcrphase-sysinit.service "
    "systemd-update-utmp.service systemd-update-utmp-runlevel.service modprobe@drm.service "
    "sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount "
    "dev-hugepages.mount proc-sys-fs-binfmt_misc.automount"
).split()
# Programs that make units at each boot, of things that these guests do not have; the seed starts cloud-init.
_MASKED_GENERATORS = (
    "cloud-init-generator systemd-cryptsetup-generator systemd-debug-generator systemd-gpt-auto-generator "
    "systemd-hibernate-resume-generator systemd-integritysetup-generator systemd-rc-local-generator "
    "systemd-run-generator systemd-system-update-generator systemd-veritysetup-generator"
).split()


def overlay() -> bytes:
    """A tar archive of what must be there before packages are configured."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in _FILES:
            _add_file(archive, file)
        for name, target in _ENABLED.items():
            _add_link(archive, f"etc/systemd/system/{name}", target)
        for unit in _MASKED:
            _add_link(archive, f"etc/systemd/system/{unit}", "/dev/null")
        for generator in _MASKED_GENERATORS:
            _add_link(archive, f"etc/systemd/system-generators/{generator}", "/dev/null")
    return buffer.getvalue()


def finish(root: Path) -> None:
    """Make the installed root file system an image: nothing in it may belong to one machine only."""
    guestfiles.compile_program(AWAKEN, root)
    write(root / "etc/machine-id", "", 0o444)  # empty: made at boot, and no first-boot questions
    link(root / "var/lib/dbus/machine-id", "/etc/machine-id")
    write(root / "etc/hostname", "debian\n")
    write(root / "etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
    write(root / "etc/fstab", "# The root file system is mounted by its UUID on the kernel's command line.\n")
    write(root / "etc/default/locale", "LANG=C.UTF-8\n")
    write(root / "etc/cloud/cloud-init.disabled", "")
    link(root / "etc/resolv.conf", "/run/systemd/resolve/stub-resolv.conf")
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    now = time.time_ns() // 1000
    for directory in ("etc", "var"):  # else each first boot does what the installation did already
        write(root / directory / ".updated", f"TIMESTAMP_NSEC={now * 1000}\n")


def _add_file(archive: tarfile.TarFile, file: GuestFile) -> None:
    data = guestfiles.content(file.name)
    member = tarfile.TarInfo(file.path)
    member.size, member.mode = len(data), file.mode
    archive.addfile(member, BytesIO(data))


def _add_link(archive: tarfile.TarFile, path: str, target: str) -> None:
    member = tarfile.TarInfo(path)
    member.type, member.linkname = tarfile.SYMTYPE, target
    archive.addfile(member)
