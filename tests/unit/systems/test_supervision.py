"""What is put right although nobody asked, and what is left alone."""

from __future__ import annotations

from dataclasses import replace

from forkbed.core.systems.goal import Goal, Wanted
from forkbed.core.systems.planner import plan_system
from forkbed.core.systems.spec import ResolvedSystem, RestartPolicy
from forkbed.core.systems.status import is_ready, restart_pending, system_status
from forkbed.core.systems.supervision import backoff_s, find_deviation
from forkbed.core.systems.view import Power
from tests.unit.systems.worlds import World, machine, system

RUNNING = {"a": Wanted.RUNNING, "b": Wanted.RUNNING}


def brought_up(declared: ResolvedSystem) -> World:
    world = World()
    goal = Goal({m.name: Wanted.RUNNING for m in declared.machines})
    while runnable := plan_system(declared, goal, world.view()).runnable():
        world.do(declared, runnable[0].step)
    return world


def with_power(world: World, name: str, power: Power) -> None:
    for machine_id, seen in world.machines.items():
        if seen.name == name:
            boot = "" if power in (Power.OFF, Power.CRASHED) else seen.boot_id
            world.machines[machine_id] = replace(seen, power=power, boot_id=boot)


def test_nothing_to_do_when_all_is_as_wanted() -> None:
    declared = system(machine("a"), machine("b"))
    assert find_deviation(declared, RUNNING, True, brought_up(declared).view()) is None


def test_a_machine_that_stopped_is_started_only_if_its_policy_says_so() -> None:
    never = replace(machine("b"), spec=replace(machine("b").spec, restart=RestartPolicy.NEVER))
    declared = system(machine("a"), never)
    world = brought_up(declared)
    with_power(world, "b", Power.OFF)
    assert find_deviation(declared, RUNNING, True, world.view()) is None
    with_power(world, "a", Power.CRASHED)
    found = find_deviation(declared, RUNNING, True, world.view())
    assert found is not None
    assert found.reasons == ("a crashed",)
    assert found.goal.wanted == {"a": Wanted.RUNNING}
    keys = [planned.key for planned in plan_system(declared, found.goal, world.view()).steps]
    assert keys == ["start a"]


def test_a_stopped_machine_that_runs_is_stopped_again_and_a_paused_one_left_alone() -> None:
    declared = system(machine("a"), machine("b"))
    world = brought_up(declared)
    found = find_deviation(declared, RUNNING | {"a": Wanted.STOPPED}, True, world.view())
    assert found is not None
    assert found.goal.wanted["a"] is Wanted.STOPPED
    with_power(world, "a", Power.PAUSED)
    assert find_deviation(declared, RUNNING | {"a": Wanted.PAUSED}, True, world.view()) is None
    assert find_deviation(declared, RUNNING, True, world.view()) is None, "somebody paused it by hand"


def test_a_machine_nobody_asked_for_is_left_alone() -> None:
    declared = system(machine("a"), machine("b"))
    world = brought_up(declared)
    with_power(world, "a", Power.OFF)
    assert find_deviation(declared, {"b": Wanted.RUNNING}, True, world.view()) is None


def test_supervision_never_restarts_what_runs_nor_destroys() -> None:
    old = system(machine("a"), machine("b"))
    world = brought_up(old)
    new = system(machine("a", memory_bytes=1 << 29))
    with_power(world, "b", Power.OFF)
    found = find_deviation(new, RUNNING, True, world.view())
    assert found is not None, "the network has other members now"
    steps = [planned.key for planned in plan_system(new, found.goal, world.view()).steps]
    assert not [key for key in steps if key.startswith(("stop", "remove", "undefine"))]


def test_the_wait_grows_and_is_bounded() -> None:
    waits = [backoff_s(failures) for failures in range(50)]
    assert waits[:4] == [0.0, 1.0, 2.0, 4.0]
    assert waits == sorted(waits)
    assert waits[-1] == 60.0


def test_states_in_one_word() -> None:
    declared = system(machine("a"), machine("b"))
    world = brought_up(declared)

    def state(wanted: dict[str, Wanted], up: bool = True) -> str:
        return system_status(declared, wanted, up, world.view(), None).state

    assert state(RUNNING) == "up"
    assert is_ready(declared.machine("a"), world.view())
    with_power(world, "a", Power.PAUSED)
    assert state(RUNNING) == "degraded"
    with_power(world, "b", Power.PAUSED)
    assert state(dict.fromkeys(RUNNING, Wanted.PAUSED)) == "paused"
    with_power(world, "a", Power.OFF)
    with_power(world, "b", Power.OFF)
    assert state(dict.fromkeys(RUNNING, Wanted.STOPPED)) == "stopped"
    assert state(dict.fromkeys(RUNNING, Wanted.STOPPED), up=False) == "down"


def test_a_restart_is_pending_while_the_guest_runs_with_the_old_definition() -> None:
    old, new = system(machine("a")), system(machine("a", memory_bytes=1 << 29))
    world = brought_up(old)
    assert not restart_pending(old, old.machine("a"), world.view())
    assert restart_pending(new, new.machine("a"), world.view())
