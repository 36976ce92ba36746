"""What an error of libvirt means for a caller: its codes as the closed set of kinds."""

from __future__ import annotations

import libvirt

from forkbed.base.errors import Kind, OperationalError

_KINDS = {
    libvirt.VIR_ERR_NO_DOMAIN: Kind.NOT_FOUND,
    libvirt.VIR_ERR_OPERATION_INVALID: Kind.CONFLICT,
    libvirt.VIR_ERR_DOM_EXIST: Kind.CONFLICT,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: Kind.BUSY,
    libvirt.VIR_ERR_RESOURCE_BUSY: Kind.BUSY,
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE: Kind.UNREACHABLE,
    libvirt.VIR_ERR_AGENT_UNSYNCED: Kind.UNREACHABLE,
    libvirt.VIR_ERR_NO_CONNECT: Kind.UNREACHABLE,
    libvirt.VIR_ERR_AUTH_FAILED: Kind.UNREACHABLE,
    libvirt.VIR_ERR_RPC: Kind.UNREACHABLE,
}
_REMEDIES = {
    Kind.BUSY: "wait until what changes it now has ended, and try again",
    Kind.UNREACHABLE: "`forkbed doctor` tells how libvirt is",
}


def is_disconnection(error: libvirt.libvirtError) -> bool:
    """Whether the error says that libvirtd was not reached, rather than anything it answered."""
    return bool(
        error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE)
        # a connection that another thread found broken and closed meanwhile is an invalid one to this call
        or error.get_error_code()
        in (libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_RPC, libvirt.VIR_ERR_INVALID_CONN)
    )


def translate(
    error: libvirt.libvirtError, subject: str, action: str, *, details: tuple[str, ...] = ()
) -> OperationalError:
    """The error for "`subject`: cannot `action`", with libvirt's own words."""
    kind = _KINDS.get(error.get_error_code(), Kind.FAULT)
    if is_disconnection(error):
        kind = Kind.UNREACHABLE
    words = " ".join(str(error.get_error_message() or error).split())
    return OperationalError(
        kind, subject, f"cannot {action}: {words}", _REMEDIES.get(kind, ""), details=details
    )
