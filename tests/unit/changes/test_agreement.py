"""What is said before agrees with what the planner then does: both look at the same pair of revisions."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from itertools import count

from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from forkbed.base.errors import OperationalError
from forkbed.base.ids import ImageId, InstallationId
from forkbed.core.systems.change_view import DESTROY, LIVE, ChangeKind
from forkbed.core.systems.changes import diff_systems
from forkbed.core.systems.check import check_system
from forkbed.core.systems.digests import definition_digest, network_digest, readiness_digest
from forkbed.core.systems.resolve import ImageFacts, Surroundings, resolve_system
from forkbed.core.systems.spec import (
    FileSpec,
    MachineSpec,
    NetworkSpec,
    NicSpec,
    ProbeKind,
    ProbeSpec,
    PublishSpec,
    ResolvedSystem,
    SecretSpec,
    SetupSpec,
    SystemSpec,
    UplinkKind,
    UserSpec,
    VolumeSpec,
)

GIBIBYTE = 1 << 30
CONTENTS = [ImageId("a" * 64), ImageId("b" * 64)]


def mostly(usual: object, *others: object) -> st.SearchStrategy[object]:
    """Two draws of it are often the same, so that single differences are common."""
    return st.sampled_from([usual] * 4 + list(others))


def numbered(length: int) -> Callable[[int], str]:
    """Draws ids by counting; `length` tells the ids of one revision from those of the next."""
    numbers = count()
    return lambda _: f"{length}x{next(numbers)}"


@st.composite
def machines(draw: st.DrawFn, name: str) -> MachineSpec:
    nic = NicSpec("n")
    machine = MachineSpec(
        name,
        "i",
        cpus=1,
        memory_bytes=GIBIBYTE,
        nics=(nic,),
        volumes=(VolumeSpec("d", 2 * GIBIBYTE),),
    )
    fixed = NicSpec("n", IPv4Address("10.0.0.10"))
    nics = ((), (nic, nic), (replace(fixed),), (NicSpec("m"),), (NicSpec("n", mac="52:54:00:00:00:09"),))
    volumes = (
        (),
        (VolumeSpec("d", GIBIBYTE),),
        (VolumeSpec("d", 3 * GIBIBYTE, "/d"), VolumeSpec("e", GIBIBYTE)),
    )
    fields: dict[str, object] = {
        "cpus": draw(mostly(1, 2)),
        "memory_bytes": draw(mostly(GIBIBYTE, GIBIBYTE + (1 << 20))),
        "root_size_bytes": draw(mostly(None, 4 * GIBIBYTE, 2 * GIBIBYTE)),
        "nics": draw(mostly((nic,), *nics)),
        "volumes": draw(mostly(machine.volumes, *volumes)),
        "files": draw(mostly((), (FileSpec("/x", "f" * 64),), (FileSpec("/x", "f" * 64, 0o600),))),
        "secrets": draw(mostly((), (SecretSpec("/k", "k", "1"),), (SecretSpec("/k", "k", "2"),))),
        "users": draw(mostly((), (UserSpec("ann"),), (UserSpec("ann", sudo=True),))),
        "root_keys": draw(mostly((), ("k",))),
        "cloud_init": draw(mostly("", "#!x")),
        "setup": draw(mostly((), (SetupSpec("x"),), (SetupSpec("x", timeout_s=300.25),))),
        "ready": draw(mostly((), (ProbeSpec(ProbeKind.EXEC, command="x"),))),
        "publish": draw(mostly((), (PublishSpec(1, 1),))) if name == "a" else (),
    }
    return replace(machine, **fields)  # type: ignore[arg-type]


@st.composite
def specs(draw: st.DrawFn) -> SystemSpec:
    networks = (
        NetworkSpec(
            "n",
            draw(st.sampled_from([IPv4Network("10.0.0.0/24")] * 5 + [IPv4Network("10.0.0.0/25")])),
            draw(st.sampled_from([UplinkKind.NONE] * 5 + [UplinkKind.NAT, UplinkKind.BRIDGE])),
            draw(st.sampled_from(["br0"] * 5 + ["br1"])),
        ),
        NetworkSpec("m", IPv4Network("10.1.0.0/24")),
    )
    names = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
    return SystemSpec("s", networks, tuple(draw(machines(name)) for name in sorted(names)))


def resolved(spec: SystemSpec, before: ResolvedSystem | None, content: ImageId) -> ResolvedSystem:
    revision = 1 if before is None else 2
    around = Surroundings(
        installation=InstallationId("inst"),
        images={"i": ImageFacts(content, 2 * GIBIBYTE)},
        transit_pool=IPv4Network("198.19.0.0/24"),
        taken_transits=frozenset(),
        draw_id=numbered(revision),
        draw_uuid=lambda: str(uuid.UUID(int=revision)),
    )
    return resolve_system(spec, before, around)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
@given(specs(), specs(), st.sampled_from(CONTENTS))
def test_what_is_said_is_what_is_done(one: SystemSpec, two: SystemSpec, content: ImageId) -> None:
    assume(not check_system(one) and not check_system(two))
    try:
        old = resolved(one, None, CONTENTS[0])
        new = resolved(two, old, content)
    except OperationalError:
        assume(False)
    views = {view.subject: view for view in diff_systems(old, new)}
    before = {machine.name: machine for machine in old.machines}
    for machine in new.machines:
        view = views[f"machine {machine.name}"]
        was = before.pop(machine.name, None)
        if was is None:
            assert view.kind is ChangeKind.CREATE
            continue
        lost = {volume.id for volume in was.volumes} - {volume.id for volume in machine.volumes}
        restarts = definition_digest(old, was) != definition_digest(new, machine)
        event(f"needs {view.needs or 'nothing'}, {view.kind}")
        assert (view.needs == DESTROY) == bool(lost), view
        assert len(view.loses) == len(lost), view
        assert (view.needs != LIVE) == restarts, view
        if readiness_digest(was) != readiness_digest(machine):
            assert view.kind is ChangeKind.CHANGE
    for gone in before.values():
        assert len(views[f"machine {gone.name}"].loses) == len(gone.volumes)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs())
def test_nothing_is_said_of_the_same_manifest(spec: SystemSpec) -> None:
    assume(not check_system(spec))
    old = resolved(spec, None, CONTENTS[0])
    new = resolved(spec, old, CONTENTS[0])
    assert all(view.kind is ChangeKind.KEEP for view in diff_systems(old, new))
    assert [network_digest(old, n) for n in old.networks] == [network_digest(new, n) for n in new.networks]


def test_a_machine_whose_address_somebody_else_asks_for_is_said_to_move() -> None:
    network = NetworkSpec("n", IPv4Network("10.0.0.0/24"))
    first = MachineSpec("a", "i", 1, GIBIBYTE, nics=(NicSpec("n"),))
    old = resolved(SystemSpec("s", (network,), (first,)), None, CONTENTS[0])
    taken = old.machines[0].nics[0].address
    second = replace(first, name="b", nics=(NicSpec("n", taken),))
    new = resolved(SystemSpec("s", (network,), (first, second)), old, CONTENTS[0])
    (view,) = [view for view in diff_systems(old, new) if view.subject == "machine a"]
    assert view.needs == "restart"
    assert [(change.field, change.old) for change in view.fields] == [("nics[0].address", str(taken))]
