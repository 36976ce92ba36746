"""What must fit together in a system: is this spec one that can run?

Pure. Says everything that is wrong at once, each with its path in the manifest. Single values (is this a size, is
this a MAC) were checked when they were read. Networks and addresses are in `check_networks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from forkbed.base.errors import Problem
from forkbed.base.ids import is_name
from forkbed.base.units import format_size
from forkbed.base.words import quoted, suggest
from forkbed.core.systems.check_networks import Unread, check_networks
from forkbed.core.systems.spec import MachineSpec, SystemSpec

_MEBIBYTE = 1024**2
_TEBIBYTE = 1024**4
MIN_MEMORY_BYTES = 64 * _MEBIBYTE
MAX_MEMORY_BYTES = 4 * _TEBIBYTE
MIN_VOLUME_BYTES = _MEBIBYTE
MAX_VOLUME_BYTES = 64 * _TEBIBYTE
MAX_CPUS = 256
MAX_VOLUMES = 24  # with root and seed they are vda to vdz
SERIAL_CHARACTERS = 16  # of a volume's name, in the serial number by which the guest finds the disk

_RESERVED_VOLUMES = frozenset({"root", "seed"})
_SYSTEM_DIRECTORIES = frozenset(
    {"/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr", "/var"}
)


def check_system(spec: SystemSpec, unread: Unread | None = None) -> list[Problem]:
    """All that is wrong with the spec; empty if it can run as far as can be told without a host."""
    unread = unread or Unread()
    problems = list(_names(spec))
    if not spec.machines and not unread.machines:
        problems.append(Problem(("machines",), "a system needs a machine", "declare one"))
    problems += check_networks(spec, unread)
    for machine in spec.machines:
        for check in _MACHINE_CHECKS:
            problems += check(machine)
    problems += _after(spec, unread)
    return problems


def check_images(spec: SystemSpec, images: Mapping[str, int]) -> list[Problem]:
    """What is wrong with the images that the machines name; `images` maps each known reference to its size in bytes."""
    sizes = {reference: images.get(reference) for reference in {machine.image for machine in spec.machines}}
    known = sorted(images) if None in sizes.values() else []  # looked up once: each look may be slow
    problems = []
    for machine in spec.machines:
        path = ("machines", machine.name)
        size_bytes = sizes[machine.image]
        if size_bytes is None:
            right = suggest(machine.image, known) or "build or import it first"
            problems.append(Problem((*path, "image"), f"there is no image {quoted(machine.image)}", right))
        elif machine.root_size_bytes is not None and machine.root_size_bytes < size_bytes:
            wrong = (
                f"{format_size(machine.root_size_bytes)} is smaller than the image {quoted(machine.image)}"
            )
            problems.append(Problem((*path, "root"), wrong, f"at least {format_size(size_bytes)}"))
    return problems


def _names(spec: SystemSpec) -> Iterator[Problem]:
    right = "small letters, digits and `-`, beginning with a letter, at most 63"
    named = [
        (("system",), spec.name),
        *((("networks", network.name), network.name) for network in spec.networks),
        *((("machines", machine.name), machine.name) for machine in spec.machines),
    ]
    seen: set[tuple[str, ...]] = set()
    for path, name in named:
        if not is_name(name):
            yield Problem(path, f"{quoted(name)} cannot be a name", right, on_key=len(path) > 1)
        if path in seen:
            yield Problem(path, "the name is used twice", "names are unique in a system", on_key=True)
        seen.add(path)


def _sizes(machine: MachineSpec) -> Iterator[Problem]:
    path = ("machines", machine.name)
    if not 1 <= machine.cpus <= MAX_CPUS:
        yield Problem(
            (*path, "cpus"), f"{machine.cpus} CPUs are not possible", f"a number from 1 to {MAX_CPUS}"
        )
    yield from _size((*path, "memory"), machine.memory_bytes, MIN_MEMORY_BYTES, MAX_MEMORY_BYTES)
    if machine.root_size_bytes is not None:
        yield from _size((*path, "root"), machine.root_size_bytes, MIN_VOLUME_BYTES, MAX_VOLUME_BYTES)
    for volume in machine.volumes:
        here = (*path, "volumes", volume.name, "size")
        yield from _size(here, volume.size_bytes, MIN_VOLUME_BYTES, MAX_VOLUME_BYTES)


def _size(path: tuple[str, ...], size_bytes: int, low: int, high: int) -> Iterator[Problem]:
    if not low <= size_bytes <= high:
        wrong = f"{format_size(size_bytes)} is too {'small' if size_bytes < low else 'large'}"
        yield Problem(path, wrong, f"{format_size(low)} to {format_size(high)}")


def _volumes(machine: MachineSpec) -> Iterator[Problem]:
    path = ("machines", machine.name, "volumes")
    mounts: dict[str, str] = {}
    serials: dict[str, str] = {}
    if len(machine.volumes) > MAX_VOLUMES:
        yield Problem(path, f"{len(machine.volumes)} volumes are too many", f"at most {MAX_VOLUMES}")
    for volume in machine.volumes:
        here = (*path, volume.name)
        if not is_name(volume.name) or volume.name in _RESERVED_VOLUMES:
            right = "another name, of small letters, digits and `-`"
            yield Problem(here, f"{quoted(volume.name)} cannot name a volume", right, on_key=True)
        serial = volume.name[:SERIAL_CHARACTERS]
        other = serials.setdefault(serial, volume.name)
        if other != volume.name:
            right = f"let the first {SERIAL_CHARACTERS} characters differ, the guest knows its disks by them"
            yield Problem(here, f"begins like the volume `{other}`", right, on_key=True)
        if not volume.mount:
            continue
        other = mounts.setdefault(volume.mount, volume.name)
        if other != volume.name:
            right = "mount each volume somewhere else"
            yield Problem((*here, "mount"), f"the volume `{other}` is mounted at {volume.mount} too", right)
        if volume.mount in _SYSTEM_DIRECTORIES:
            right = f"a directory of its own, such as {'/srv' if volume.mount != '/var' else '/var/lib/data'}"
            yield Problem(
                (*here, "mount"), f"a volume at {volume.mount} would hide the guest's own files", right
            )


def _files(machine: MachineSpec) -> Iterator[Problem]:
    path = ("machines", machine.name)
    placed: list[tuple[tuple[str | int, ...], str]]
    placed = [((*path, "files", index), file.path) for index, file in enumerate(machine.files)]
    placed += [((*path, "secrets", index), secret.path) for index, secret in enumerate(machine.secrets)]
    seen: dict[str, tuple[str | int, ...]] = {}
    for here, target in placed:
        if target in seen:
            yield Problem((*here, "path"), f"{target} is written twice", "put each file somewhere else")
        seen.setdefault(target, here)
    for target, here in seen.items():
        parents = target.split("/")[1:-1]
        for length in range(1, len(parents) + 1):
            parent = "/" + "/".join(parents[:length])
            if parent in seen:
                yield Problem(
                    (*here, "path"), f"{parent} is a file too, it cannot hold {target}", "move one of them"
                )


def _users(machine: MachineSpec) -> Iterator[Problem]:
    for user in machine.users:
        if user.name == "root":
            path = ("machines", machine.name, "ssh", "users", "root")
            yield Problem(path, "root is there already", "its keys belong under `ssh.keys`", on_key=True)


def _times(machine: MachineSpec) -> Iterator[Problem]:
    path = ("machines", machine.name)
    for index, command in enumerate(machine.setup):
        if command.timeout_s <= 0:
            yield Problem((*path, "setup", index, "timeout"), "no time at all", "more than 0, such as 5m")
    for section, probes in (("ready", machine.ready), ("checks", machine.checks)):
        for index, probe in enumerate(probes):
            here = (*path, section, index)
            if probe.interval_s < 0.05:
                yield Problem((*here, "interval"), "asks too often", "at least 50ms")
            if probe.timeout_s <= 0:
                yield Problem((*here, "timeout"), "no time at all", "more than 0, such as 2m")


_MACHINE_CHECKS: tuple[Callable[[MachineSpec], Iterator[Problem]], ...] = (
    _sizes,
    _volumes,
    _files,
    _users,
    _times,
)


def _after(spec: SystemSpec, unread: Unread) -> Iterator[Problem]:
    names = {machine.name for machine in spec.machines}
    known = names | unread.machines
    waits: dict[str, list[str]] = {}
    for machine in spec.machines:
        waits[machine.name] = []
        for index, name in enumerate(machine.after):
            path = ("machines", machine.name, "after", index)
            if name == machine.name:
                yield Problem(path, "a machine cannot start after itself", "remove it")
            elif name in machine.after[:index]:
                yield Problem(path, f"{quoted(name)} is named twice", "remove one of the two")
            elif name in names:
                waits[machine.name].append(name)
            elif name not in unread.machines:
                yield Problem(
                    path,
                    f"there is no machine {quoted(name)}",
                    suggest(name, sorted(known - {machine.name})),
                )
    for cycle in _cycles(waits):
        path = ("machines", cycle[0], "after", spec.machine(cycle[0]).after.index(cycle[1]))
        chain = " after ".join(cycle)
        yield Problem(path, f"they wait for each other: {chain}", "remove one of these")


def _cycles(waits: Mapping[str, list[str]]) -> Iterator[list[str]]:
    """One cycle of each knot of machines that wait for each other, with its first machine again at the end.

    Depth-first search without recursion; a machine is left behind once all it waits for was looked at.
    """
    done: set[str] = set()
    for start in waits:
        chain: list[str] = []
        ahead = [iter([start])]
        while ahead:
            name = next(ahead[-1], None)
            if name is None:
                ahead.pop()
                if chain:
                    done.add(chain.pop())
            elif name in chain:
                yield [*chain[chain.index(name) :], name]
            elif name not in done:
                chain.append(name)
                ahead.append(iter(waits[name]))
