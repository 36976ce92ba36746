"""How people name systems, machines and files in them: SYSTEM, SYSTEM/MACHINE, SYSTEM/MACHINE:PATH. Pure.

A kept generation, or what is left of a promotion that failed, is SYSTEM@NUMBER: a system that no person named.
"""

from __future__ import annotations

from dataclasses import dataclass

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import is_name


@dataclass(frozen=True, slots=True)
class MachineName:
    system: str
    machine: str

    def __str__(self) -> str:
        return f"{self.system}/{self.machine}"


@dataclass(frozen=True, slots=True)
class GuestPath:
    """A path in a machine; a relative one begins in the user's home directory."""

    machine: MachineName
    path: str


def machine_name(text: str) -> MachineName:
    """SYSTEM/MACHINE. Raises INVALID for any other form."""
    system, separator, machine = text.partition("/")
    if not (separator and _is_system(system) and is_name(machine)):
        raise OperationalError(
            Kind.INVALID,
            f"machine {text!r}",
            "this is no machine's name",
            "give it as SYSTEM/MACHINE, such as boss-ops/boss",
        )
    return MachineName(system, machine)


def system_or_machine(text: str) -> tuple[str, tuple[str, ...]]:
    """SYSTEM[/MACHINE] as the system's name and the machines meant (none: all)."""
    if "/" in text:
        name = machine_name(text)
        return name.system, (name.machine,)
    return system_name(text), ()


def system_name(text: str) -> str:
    """A system's name. Raises INVALID for what cannot be one."""
    if not _is_system(text):
        raise OperationalError(
            Kind.INVALID, f"system {text!r}", "this is no system's name", "`forkbed list` shows the names"
        )
    return text


def system_or_snapshot(text: str) -> str:
    """SYSTEM or SYSTEM@SNAPSHOT as it is. Raises INVALID for what cannot be a system's name."""
    system_name(text.partition("@")[0])
    return text


def place(text: str) -> str:
    """A file's name, or `-` for a standard stream. Raises INVALID for what was meant as an option."""
    if text.startswith("-") and text != "-":
        raise OperationalError(
            Kind.INVALID, text, "there is no such option", f"a file of that name is written ./{text}"
        )
    return text


def guest_path(text: str) -> GuestPath | None:
    """SYSTEM/MACHINE:PATH, or None for a path on this machine.

    A local file whose name looks like that is written with a leading `./`.
    """
    prefix, separator, path = text.partition(":")
    if not separator or text.startswith(("/", ".", "-")):
        return None
    system, slash, machine = prefix.partition("/")
    if not (slash and _is_system(system) and is_name(machine)):
        return None
    return GuestPath(MachineName(system, machine), path or ".")


def _is_system(text: str) -> bool:
    name, at, generation = text.partition("@")
    return is_name(name) and (not at or (generation.isascii() and generation.isdigit()))
