"""What a changed value is called, and whether it needs nothing, a restart, or the loss of data."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from forkbed.base.ids import ImageId, InstallationId
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.core.systems.change_view import ChangeKind, ChangeView
from forkbed.core.systems.changes import diff_systems
from forkbed.core.systems.resolve import ImageFacts, Surroundings, resolve_system
from forkbed.core.systems.spec import (
    FileSpec,
    Ipv6Policy,
    MachineSpec,
    NetworkSpec,
    NicSpec,
    ProbeKind,
    ProbeSpec,
    PublishSpec,
    RestartPolicy,
    SecretSpec,
    SetupSpec,
    SetupWhen,
    SystemSpec,
    UplinkKind,
    UserSpec,
    VolumeSpec,
)
from tests.unit.manifest.specs import systems

GIBIBYTE = 1 << 30
IMAGE, OTHER_IMAGE = ImageId("a" * 64), ImageId("b" * 64)
NET = NetworkSpec("n", IPv4Network("10.0.0.0/24"))
BOSS = MachineSpec(
    "boss", "boss:dev", 2, GIBIBYTE, volumes=(VolumeSpec("data", 2 * GIBIBYTE, "/srv"),), nics=(NicSpec("n"),)
)
BASE = SystemSpec("s", (NET,), (BOSS,))
Seen = tuple[str, list[tuple[str, str, str]], str, tuple[str, ...]]


def diff(old: SystemSpec | None, new: SystemSpec, image: ImageId = IMAGE) -> tuple[ChangeView, ...]:
    """The changes between two revisions. Every image has 2 GiB; the new revision's has the content `image`."""
    before = resolve_system(old, None, around(IMAGE, 1)) if old else None
    return diff_systems(before, resolve_system(new, before, around(image, 2)))


def around(image: ImageId, revision: int) -> Surroundings:
    numbers = count()
    return Surroundings(
        installation=InstallationId("inst"),
        images=dict.fromkeys(
            ("boss:dev", "boss:test", "debian:dev", "micro:dev"), ImageFacts(image, 2 * GIBIBYTE)
        ),
        transit_pool=IPv4Network("198.19.0.0/24"),
        taken_transits=frozenset(),
        draw_id=lambda _: f"{revision}x{next(numbers)}",
        draw_uuid=lambda: str(revision),
    )


def seen(view: ChangeView) -> Seen:
    return view.subject, [(item.field, item.old, item.new) for item in view.fields], view.needs, view.loses


def changed(old: SystemSpec, new: SystemSpec, image: ImageId = IMAGE) -> list[Seen]:
    return [seen(view) for view in diff(old, new, image) if view.kind is not ChangeKind.KEEP]


def boss(**changes: Any) -> SystemSpec:
    return SystemSpec("s", (NET,), (replace(BOSS, **changes),))


def of_boss(
    new: SystemSpec, old: SystemSpec = BASE
) -> tuple[list[tuple[str, str, str]], str, tuple[str, ...]]:
    (only,) = changed(old, new)
    assert only[0] == "machine boss"
    return only[1:]


@pytest.mark.parametrize(
    ("changes", "field", "needs"),
    [
        ({"cpus": 4}, ("cpus", "2", "4"), "restart"),
        ({"memory_bytes": 2 * GIBIBYTE}, ("memory", "1 GiB", "2 GiB"), "restart"),
        ({"memory_bytes": GIBIBYTE + (1 << 20)}, ("memory", "1 GiB", "1.0 GiB"), "restart"),
        ({"root_size_bytes": 3 * GIBIBYTE}, ("root", "2 GiB", "3 GiB"), "restart"),
        ({"nics": (NicSpec("n", IPv4Address("10.0.0.9")),)}, ("nics[0]", "n", "n 10.0.0.9"), "restart"),
        ({"nics": (*BOSS.nics, NicSpec("n"))}, ("nics[1]", "", "n"), "restart"),
        ({"nics": ()}, ("nics[0]", "n", ""), "restart"),
        ({"volumes": (VolumeSpec("data", 3 * GIBIBYTE, "/srv"),)}, ("volumes.data.size", "2 GiB", "3 GiB"), "restart"),
        ({"volumes": (*BOSS.volumes, VolumeSpec("log", GIBIBYTE))}, ("volumes.log.size", "", "1 GiB"), "restart"),
        ({"volumes": (replace(BOSS.volumes[0], mount="/x"),)}, ("volumes.data.mount", "/srv", "/x"), "restart"),
        ({"files": (FileSpec("/x", "f" * 64),)}, ("files./x", "", "content ffffffffffff, 0644 root:root"), "restart"),
        ({"secrets": (SecretSpec("/k", "key", "v1"),)},
         ("secrets./k", "", "secret key, 0600 root:root"), "restart"),
        ({"root_keys": ("ssh-ed25519 A",)}, ("ssh.keys", "", "ssh-ed25519 A"), "restart"),
        ({"users": (UserSpec("ann", ("k",), ("adm",), True),)},
         ("ssh.users.ann", "", "shell /bin/sh; groups adm; sudo; key k"), "restart"),
        ({"publish": (PublishSpec(8080, 80),)}, ("publish", "", "127.0.0.1:8080 -> 80/tcp"), ""),
        ({"setup": (SetupSpec("x", SetupWhen.BOOT),)}, ("setup", "", "x (at each boot, 300 s)"), ""),
        ({"ready": (ProbeSpec(ProbeKind.TCP, 22),)}, ("ready", "", "tcp 22 (each 0.5 s, for 120 s)"), ""),
        ({"checks": (ProbeSpec(ProbeKind.HTTP, 80, "/up", 204),)},
         ("checks", "", "http :80/up 204 (each 0.5 s, for 120 s)"), ""),
        ({"after": ("other",)}, ("after", "", "other"), ""),
        ({"restart": RestartPolicy.NEVER}, ("restart", "always", "never"), ""),
        ({"image": "boss:test"}, ("image", "boss:dev", "boss:test"), ""),
    ],
)  # fmt: skip
def test_what_keeps_the_data(changes: dict[str, Any], field: tuple[str, str, str], needs: str) -> None:
    assert of_boss(boss(**changes)) == ([field], needs, ())


@pytest.mark.parametrize(
    ("changes", "field", "loses"),
    [
        ({"volumes": (VolumeSpec("data", GIBIBYTE, "/srv"),)},
         ("volumes.data.size", "2 GiB", "1 GiB"), "boss/data (2 GiB)"),
        ({"volumes": ()}, ("volumes.data", "2 GiB", ""), "boss/data (2 GiB)"),
    ],
)  # fmt: skip
def test_what_loses_a_volume(changes: dict[str, Any], field: tuple[str, str, str], loses: str) -> None:
    assert of_boss(boss(**changes)) == ([field], "destroy", (loses,))


def test_another_image_loses_the_root_volume() -> None:
    (only,) = changed(BASE, BASE, OTHER_IMAGE)
    assert only == (
        "machine boss",
        [("image", f"boss:dev ({'a' * 12})", f"boss:dev ({'b' * 12})")],
        "destroy",
        ("boss/root (2 GiB)",),
    )


def test_a_root_volume_shrinks_also_when_its_size_is_no_longer_declared() -> None:
    large, small = boss(root_size_bytes=4 * GIBIBYTE), boss(root_size_bytes=3 * GIBIBYTE)
    assert of_boss(small, large) == ([("root", "4 GiB", "3 GiB")], "destroy", ("boss/root (4 GiB)",))
    assert of_boss(BASE, large)[1:] == ("destroy", ("boss/root (4 GiB)",))
    assert changed(boss(root_size_bytes=2 * GIBIBYTE), BASE) == []  # that is the image's size


def test_a_machine_that_goes_takes_its_volumes_along() -> None:
    other = replace(BOSS, name="ops", volumes=())
    (gone,) = changed(replace(BASE, machines=(BOSS, other)), replace(BASE, machines=(other,)))
    assert gone == ("machine boss", [], "destroy", ("boss/root (2 GiB)", "boss/data (2 GiB)"))


def test_several_changes_need_the_most_that_one_of_them_needs() -> None:
    fields, needs, loses = of_boss(boss(cpus=4, volumes=(), publish=(PublishSpec(1, 2),)))
    assert [field for field, _, _ in fields] == ["volumes.data", "cpus", "publish"]
    assert (needs, loses) == ("destroy", ("boss/data (2 GiB)",))


@pytest.mark.parametrize(
    ("changes", "field", "needs"),
    [
        ({"uplink": UplinkKind.NAT}, ("uplink", "none", "nat"), ""),
        ({"ipv6": Ipv6Policy.LINK_LOCAL}, ("ipv6", "block", "link-local"), ""),
        ({"subnet": IPv4Network("10.1.0.0/24")}, ("subnet", "10.0.0.0/24", "10.1.0.0/24"), "restart"),
        ({"uplink": UplinkKind.BRIDGE, "bridge": "br0"}, ("uplink", "none", "bridge:br0"), ""),
    ],
)
def test_networks(changes: dict[str, Any], field: tuple[str, str, str], needs: str) -> None:
    """What moves addresses restarts every machine on the network, and only those."""
    away = replace(BOSS, name="away", nics=())
    old = replace(BASE, machines=(BOSS, away))
    found = changed(old, replace(old, networks=(replace(NET, **changes),)))
    assert found[0] == ("network n", [field], needs, ())
    name, before, after = field
    expected = [(f"networks.n.{name}", before, after)] if needs else []
    if name == "subnet":
        expected.append(("nics[0].address", "10.0.0.10", "10.1.0.10"))
    assert found[1:] == ([("machine boss", expected, "restart", ())] if expected else [])


def test_labels_networks_and_machines_come_and_go() -> None:
    new = SystemSpec(
        "s",
        (replace(NET, name="m"),),
        (replace(BOSS, nics=(NicSpec("m"),)), replace(BOSS, name="b", nics=())),
        (("k", "v"),),
    )
    views = diff(BASE, new)
    assert [(view.kind, view.subject) for view in views] == [
        ("change", "system s"),
        ("create", "network m"),
        ("change", "machine boss"),
        ("create", "machine b"),
        ("remove", "network n"),
    ]
    assert views[3].fields[0].new == f"boss:dev ({'a' * 12})"


def test_a_new_system_is_all_new() -> None:
    assert [(view.kind, view.subject) for view in diff(None, BASE)] == [
        ("create", "network n"),
        ("create", "machine boss"),
    ]


def test_a_secret_is_never_shown() -> None:
    old = boss(secrets=(SecretSpec("/k", "key", "version1"),))
    new = boss(secrets=(SecretSpec("/k", "key", "version2"),))
    fields, needs, _ = of_boss(new, old)
    assert fields == [
        ("secrets./k", "secret key, 0600 root:root", "secret key, 0600 root:root, another value")
    ]
    assert needs == "restart"
    assert "version" not in repr(diff(old, new)) + repr(diff(None, new))


def test_commands_are_paired_and_their_order_counts() -> None:
    one, two, three = SetupSpec("1"), SetupSpec("2"), SetupSpec("3")
    assert of_boss(boss(setup=(one, three)), boss(setup=(one, two)))[0] == [
        ("setup", "2 (once, 300 s)", "3 (once, 300 s)")
    ]
    assert of_boss(boss(setup=(two, one)), boss(setup=(one, two)))[0] == [
        ("setup", "1 (once, 300 s), 2 (once, 300 s)", "2 (once, 300 s), 1 (once, 300 s)")
    ]


MANY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@MANY
@given(systems(), systems())
def test_a_difference_is_seen_wherever_there_is_one(
    one: tuple[SystemSpec, ManifestBundle], two: tuple[SystemSpec, ManifestBundle]
) -> None:
    """Also in both directions, and nowhere else; every field says two different things."""
    old, new = one[0], two[0]
    assert all(view.kind is ChangeKind.KEEP for view in diff(old, old))
    views = {view.subject: view for view in diff(old, new)}
    for machine in new.machines:
        before = {m.name: m for m in old.machines}.get(machine.name)
        view = views[f"machine {machine.name}"]
        if before is None:
            assert view.kind is ChangeKind.CREATE
        elif before != machine:
            assert view.kind is ChangeKind.CHANGE
    for view in views.values():
        assert all(item.old != item.new for item in view.fields)
        assert bool(view.loses) <= (view.needs == "destroy")
        assert (view.kind is ChangeKind.CHANGE) == (bool(view.fields) and view.kind is not ChangeKind.CREATE)
