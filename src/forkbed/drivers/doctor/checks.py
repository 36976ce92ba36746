"""The list of what the doctor checks."""

from __future__ import annotations

from forkbed.config.settings import Settings
from forkbed.drivers.doctor import host, networking, programs
from forkbed.drivers.doctor.findings import Check


def all_checks(settings: Settings) -> tuple[Check, ...]:
    """Every check, in the order in which a person wants to read them."""
    return (
        Check("programs", programs.examine_programs),
        Check(
            "hypervisor",
            lambda: host.examine_acceleration(settings.cache_dir),
            slow="booting a guest, with KVM first",
        ),
        Check("libvirt", lambda: host.examine_libvirt(settings.libvirt_uri), slow="asking libvirt"),
        Check("namespaces", networking.examine_namespaces),
        Check("filters", networking.examine_filters),
        Check("state space", lambda: host.examine_space("state", settings.state_dir)),
        Check("cache space", lambda: host.examine_space("cache", settings.cache_dir)),
        Check("memory", host.examine_memory),
        Check("clock", host.examine_clock),
        Check("kernel settings", host.examine_kernel_settings),
        Check("apparmor", host.examine_apparmor),
        Check("fuse", host.examine_fuse),
    )
