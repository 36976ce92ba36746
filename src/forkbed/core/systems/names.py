"""What a system's parts are called on a host, where people meet them with other tools. Pure."""

from __future__ import annotations

from forkbed.base.ids import InstallationId
from forkbed.core.systems.spec import ResolvedMachine


def domain_prefix(installation: InstallationId) -> str:
    """How the hypervisor's names of all machines of an installation begin."""
    return f"fb-{installation}-"


def domain_of(installation: InstallationId, system_name: str, machine: ResolvedMachine) -> str:
    """The hypervisor's name of a machine of that system."""
    return domain_name(installation, machine.born_in or system_name, machine.name)


def domain_name(installation: InstallationId, system_name: str, machine_name: str) -> str:
    """The hypervisor's name of a machine: `fb-INSTALLATION-SYSTEM.MACHINE`.

    No name of a system or machine holds a dot, so no two machines share one.
    """
    return f"{domain_prefix(installation)}{system_name}.{machine_name}"
