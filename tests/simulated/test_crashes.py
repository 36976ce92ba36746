"""Kill the controller at every journalled step boundary: the operation finishes or is undone, nothing leaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from forkbed.core.operations.records import OperationStatus
from forkbed.engine.requests import PowerAction, UpOptions
from tests.simulated.installation import TWO_MACHINES, Died, Installation, succeeded

Action = Callable[[Installation], object]
GROWN = TWO_MACHINES.replace("size: 1GiB", "size: 2GiB").replace(
    "image: micro\n    after", "image: micro\n    memory: 1GiB\n    after"
)

STORIES: dict[str, tuple[list[Action], Action]] = {
    "first up": ([], lambda i: i.up(TWO_MACHINES)),
    "change with restart": (
        [lambda i: i.up(TWO_MACHINES)],
        lambda i: i.up(GROWN, UpOptions(restart=True)),
    ),
    "restart": (
        [lambda i: i.up(TWO_MACHINES)],
        lambda i: i.power("pair", PowerAction.RESTART),
    ),
    "down": ([lambda i: i.up(TWO_MACHINES)], lambda i: i.down("pair")),
    "delete": ([lambda i: i.up(TWO_MACHINES)], lambda i: i.down("pair", delete=True)),
}


def boundaries_of(path: Path, story: str) -> list[str]:
    """The boundaries that the story's last action passes, each with its count."""
    before, action = STORIES[story]
    installation = Installation(path)
    for step in before:
        step(installation)
    installation.boundaries.clear()
    action(installation)
    return list(installation.boundaries)


def snapshot(installation: Installation) -> object:
    """What the story ends in, without the ids of boots."""
    world = installation.world
    return (
        {(m.definition.machine.name, m.power, m.running_digest) for m in world.machines.values()},
        set(world.volumes.values()),
        set(world.networks.values()),
        set(world.seeds.items()),
        {(record.name, record.revision, record.up) for record in installation.store.systems()},
    )


pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.mark.parametrize("story", STORIES)
def test_a_kill_at_every_boundary_ends_as_if_there_had_been_none(story: str, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    undisturbed = Installation(tmp_path / "whole")
    before, action = STORIES[story]
    for step in before:
        step(undisturbed)
    action(undisturbed)
    wanted = snapshot(undisturbed)
    (tmp_path / "count").mkdir()
    count = len(boundaries_of(tmp_path / "count", story))
    assert count > 5
    for number in range(count):
        directory = tmp_path / str(number)
        directory.mkdir()
        assert kill_at(directory, story, number) == wanted, f"killed at boundary {number}"


def kill_at(path: Path, story: str, number: int) -> object:
    before, action = STORIES[story]
    installation = Installation(path)
    for step in before:
        step(installation)
    passed = 0
    boots_before = installation.world.boots

    def boundary(_name: str) -> None:
        nonlocal passed
        passed += 1
        if passed == number + 1:
            raise Died

    installation.restart(boundary)
    with pytest.raises(AssertionError):  # the operation has not ended: its controller is dead
        action(installation)
    running = installation.running()
    installation.restart()
    assert installation.running() == running, "machines survive the controller's death"
    installation.settle()
    operation = installation.store.operations(limit=1)[0]
    assert operation.status is OperationStatus.SUCCEEDED, operation.error
    assert installation.controller._garbage.find() == ()
    if story == "restart":
        assert installation.world.boots - boots_before == 2, "each machine is restarted exactly once"
    return snapshot(installation)


def test_an_operation_begun_before_the_kill_is_shown_as_interrupted(tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    installation.restart(lambda name: _die_at(name, "start ops: done"))
    with pytest.raises(AssertionError):
        installation.up(TWO_MACHINES)
    installation.restart()
    installation.settle()
    operation = installation.store.operations(limit=1)[0]
    starts = [e.status for e in installation.store.journal(operation.id) if e.key == "start ops"]
    assert starts == ["interrupted"]
    assert succeeded(operation)


def _die_at(name: str, fatal: str) -> None:
    if name == fatal:
        raise Died
