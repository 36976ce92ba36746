"""The planner's three promises, over small worlds: convergent, resumable, and taking back is exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

import pytest

from forkbed.drivers.hostsetup.plan import (
    BEGIN,
    HostSpec,
    HostView,
    InstallPackages,
    Left,
    MakeDirectory,
    RemoveDirectory,
    RemovePackages,
    RestoreFile,
    SetSysctl,
    Step,
    UndoStep,
    WriteBlock,
    WriteFile,
    plan_prepare,
    plan_undo,
    remember,
    with_block,
)

SPEC = HostSpec(
    packages=("libvirt", "qemu"),
    directories={"/state": 0o711},
    files={"/etc/ours": "new\n"},
    blocks={"/etc/theirs": "rule\n"},
    sysctls={"forward": "1", "unknown": "1"},
)


@dataclass
class World:
    """A host in memory."""

    packages: set[str] = field(default_factory=set)
    directories: set[str] = field(default_factory=lambda: {"/etc"})
    texts: dict[str, str] = field(default_factory=dict)
    sysctls: dict[str, str] = field(default_factory=lambda: {"forward": "0"})

    def look(self) -> HostView:
        return HostView(
            frozenset(self.packages),
            frozenset(self.directories),
            {path: self.texts.get(path) for path in ("/etc/ours", "/etc/theirs")},
            {name: self.sysctls.get(name) for name in ("forward", "unknown")},
        )

    def do(self, step: Step | UndoStep) -> None:
        match step:
            case InstallPackages(names):
                self.packages |= set(names)
            case RemovePackages(names):
                self.packages -= set(names)
            case MakeDirectory(path):
                self.directories.add(path)
            case RemoveDirectory(path):
                self.directories.remove(path)
            case WriteFile(path, content):
                self.texts[path] = content
            case WriteBlock(path, block):
                self.texts[path] = with_block(self.texts.get(path, ""), block)
            case RestoreFile(path, None):
                del self.texts[path]
            case RestoreFile(path, str(content)):
                self.texts[path] = content
            case SetSysctl(name, value):
                self.sysctls[name] = value
            case Left():
                pass

    def state(self) -> object:
        return self.packages, self.directories, self.texts, self.sysctls

    def copy(self) -> World:
        return World(set(self.packages), set(self.directories), dict(self.texts), dict(self.sysctls))


def worlds() -> Iterator[World]:
    for packages, state, ours, theirs, forward in product(
        (set(), {"qemu"}, {"libvirt", "qemu"}),
        ((), ("/state",)),
        (None, "old\n", "new\n"),
        (
            None,
            "",
            "kept\n",
            "without an end of line",
            with_block("kept\n", "rule\n"),
            with_block("", "old rule\n"),
        ),
        ("0", "1"),
    ):
        texts = {
            path: text for path, text in (("/etc/ours", ours), ("/etc/theirs", theirs)) if text is not None
        }
        yield World(set(packages), {"/etc", *state}, texts, {"forward": forward})


def prepared(world: World) -> tuple[Step, ...]:
    record: tuple[Step, ...] = ()
    for step in plan_prepare(SPEC, world.look()):
        record = remember(record, step)
        world.do(step)
    return record


def test_after_the_plan_nothing_is_left_to_do() -> None:
    for world in worlds():
        prepared(world)
        assert plan_prepare(SPEC, world.look()) == ()
        assert world.texts["/etc/ours"] == "new\n"
        assert world.texts["/etc/theirs"].count("rule") == 1
        assert world.sysctls == {"forward": "1"}


def test_planning_again_after_some_steps_gives_the_rest() -> None:
    for world in worlds():
        steps = plan_prepare(SPEC, world.look())
        for count, step in enumerate(steps, start=1):
            world.do(step)
            assert plan_prepare(SPEC, world.look()) == steps[count:]


def test_taking_back_restores_what_was_there() -> None:
    for world in worlds():
        if BEGIN in world.texts.get("/etc/theirs", ""):
            continue  # lines of an earlier Forkbed: taken out, not restored
        before = world.copy()
        record = prepared(world)
        for step in plan_undo(record, world.look()):
            world.do(step)
        expected = before.texts.get("/etc/theirs", "")
        if expected and not expected.endswith("\n"):
            before.texts["/etc/theirs"] = expected + "\n"
        assert world.state() == before.state()
        assert plan_undo(record, world.look()) == ()


def test_an_interrupted_prepare_is_taken_back_as_well() -> None:
    for count in range(6):
        world = World(texts={"/etc/ours": "old\n", "/etc/theirs": "kept\n"})
        before = world.copy()
        record: tuple[Step, ...] = ()
        steps = plan_prepare(SPEC, world.look())
        for number, step in enumerate(steps[: count + 1]):
            record = remember(record, step)  # the last one is noted, but killed before it is done
            if number < count:
                world.do(step)
        for undo in plan_undo(record, world.look()):
            world.do(undo)
        assert world.state() == before.state()


def test_what_was_changed_since_is_left_and_said() -> None:
    world = World()
    record = prepared(world)
    world.texts["/etc/ours"] = "edited\n"
    world.sysctls["forward"] = "2"
    world.texts["/etc/theirs"] += "their new line\n"
    steps = plan_undo(record, world.look())
    assert Left("/etc/ours", "it was changed since") in steps
    assert Left("sysctl forward", "it was changed since") in steps
    assert RestoreFile("/etc/theirs", "their new line\n") in steps


def test_a_second_prepare_remembers_the_first_state() -> None:
    world = World(texts={"/etc/ours": "first\n"})
    record = prepared(world)
    newer = HostSpec(files={"/etc/ours": "newest\n"})
    for step in plan_prepare(newer, world.look()):
        record = remember(record, step)
        world.do(step)
    assert RestoreFile("/etc/ours", "first\n") in plan_undo(record, world.look())


@pytest.mark.parametrize("text", ["", "a\n", "a", f"a\n{BEGIN}\nx\n# forkbed: end\nb\n"])
def test_our_lines_are_put_in_once_and_taken_out_whole(text: str) -> None:
    once = with_block(text, "rule")
    assert with_block(once, "rule") == once
    assert once.count(BEGIN) == 1
    assert BEGIN not in with_block(once, None)
