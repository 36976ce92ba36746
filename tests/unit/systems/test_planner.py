"""The planner's promises over small worlds: safe, resumable, convergent; and a few plans spelled out."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from forkbed.base.ids import NetworkId, SnapshotId
from forkbed.core.systems.goal import Goal, MemoryRef, Wanted
from forkbed.core.systems.planner import ALIVE, plan_system, start_order
from forkbed.core.systems.spec import ResolvedSystem
from forkbed.core.systems.steps import step_key
from forkbed.core.systems.view import Power
from tests.unit.systems.worlds import World, machine, system


def run(world: World, declared: ResolvedSystem, goal: Goal, choose: st.DataObject | None = None) -> list[str]:
    """Carry out plans until none is left, one step at a time, planning again after each."""
    done: list[str] = []
    for _ in range(100):
        plan = plan_system(declared, goal, world.view())
        if not plan.steps:
            return done
        runnable = plan.runnable()
        assert runnable, f"nothing may begin although steps are left: {[p.key for p in plan.steps]}"
        planned = runnable[0] if choose is None else choose.draw(st.sampled_from(runnable))
        done.append(planned.key)
        world.do(declared, planned.step)
    raise AssertionError(f"did not converge: {done}")


def running(declared: ResolvedSystem) -> Goal:
    return Goal({m.name: Wanted.RUNNING for m in declared.machines})


_POWERS = {Wanted.RUNNING: Power.RUNNING, Wanted.PAUSED: Power.PAUSED, Wanted.STOPPED: Power.OFF}
MACHINES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "memory_bytes": st.sampled_from([1 << 27, 1 << 28]),
        "image": st.sampled_from(["a", "b"]),
        "data_bytes": st.sampled_from([None, 1 << 20, 1 << 21]),
        "setup": st.sampled_from([(), ("true",)]),
    }
)


@st.composite
def systems(draw: st.DrawFn) -> ResolvedSystem:
    names = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
    machines = []
    for position, name in enumerate(names):
        earlier = names[:position]
        after = tuple(draw(st.lists(st.sampled_from(earlier), unique=True))) if earlier else ()
        machines.append(machine(name, after=after, **draw(MACHINES)))
    order = draw(st.permutations(machines))
    return system(*order)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A world as some other system left it, some of whose machines then died, crashed or were paused."""
    world = World()
    before = draw(systems())
    goal = running(before)
    for _ in range(draw(st.integers(0, 25))):
        runnable = plan_system(before, goal, world.view()).runnable()
        if not runnable:
            break
        world.do(before, draw(st.sampled_from(runnable)).step)
    for machine_id, seen in list(world.machines.items()):
        if seen.power is Power.RUNNING:
            power = draw(
                st.sampled_from([Power.RUNNING, Power.RUNNING, Power.OFF, Power.CRASHED, Power.PAUSED])
            )
            boot = seen.boot_id if power in ALIVE else ""
            world.machines[machine_id] = replace(seen, power=power, boot_id=boot)
    world.stopped.clear()
    return world


@given(worlds(), systems(), st.data())
@settings(max_examples=300, deadline=None)
def test_every_world_converges_to_any_goal(
    world: World, declared: ResolvedSystem, data: st.DataObject
) -> None:
    wanted = {
        m.name: data.draw(st.sampled_from(list(Wanted))) if not m.spec.after else Wanted.STOPPED
        for m in declared.machines
    }
    destroy = frozenset(data.draw(st.lists(st.sampled_from(["a", "b", "c", "a/data", "b/data"]))))
    goal = Goal(
        wanted,
        networks=True,
        delete=data.draw(st.booleans()),
        may_restart=data.draw(st.booleans()),
        may_destroy=destroy,
    )
    run(world, declared, goal, data)
    if goal.delete:
        assert not world.machines and not world.volumes and not world.networks
        return
    for declared_machine in declared.machines:
        power = world.machines[declared_machine.id].power
        match wanted[declared_machine.name]:
            case Wanted.RUNNING:
                assert power is Power.RUNNING
            case Wanted.PAUSED:
                assert power is Power.PAUSED
            case Wanted.STOPPED:
                assert power not in ALIVE
    for destroyed in world.destroyed:
        assert destroyed in destroy or destroyed.split("/")[0] in destroy


@given(worlds(), systems(), st.data())
@settings(max_examples=200, deadline=None)
def test_nothing_running_is_stopped_unless_the_goal_says_so(
    world: World, declared: ResolvedSystem, data: st.DataObject
) -> None:
    run(world, declared, running(declared), data)
    assert world.stopped == []
    assert world.destroyed == []


@given(systems(), st.data())
@settings(max_examples=100, deadline=None)
def test_planning_again_gives_the_remaining_steps(declared: ResolvedSystem, data: st.DataObject) -> None:
    world = World()
    goal = running(declared)
    while steps := plan_system(declared, goal, world.view()).steps:
        chosen = data.draw(st.sampled_from(plan_system(declared, goal, world.view()).runnable()))
        world.do(declared, chosen.step)
        after = {planned.key for planned in plan_system(declared, goal, world.view()).steps}
        before = {planned.key for planned in steps}
        # a start brings the wait for readiness; nothing else may appear, and what was done is gone
        assert chosen.key not in after
        assert {key for key in after - before if not key.startswith("ready ")} == set()


@given(systems(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_plan_that_holds_is_the_one_that_a_look_would_give(
    declared: ResolvedSystem, data: st.DataObject
) -> None:
    world, held = World(), 0
    for goal in (running(declared), Goal({}, delete=True)):
        while (plan := plan_system(declared, goal, world.view())).steps:
            chosen = data.draw(st.sampled_from(plan.runnable()))
            world.do(declared, chosen.step)
            left = plan.without(chosen.step)
            if left is not None:
                held += 1
                looked = plan_system(declared, goal, world.view())
                assert {planned.key for planned in left.steps} == {planned.key for planned in looked.steps}
                assert [planned.key for planned in left.runnable()] == [
                    planned.key for planned in looked.runnable()
                ]
    assert held


def test_a_first_start_does_everything_in_order() -> None:
    ops, boss = machine("ops", data_bytes=None), machine("boss", after=("ops",))
    assert run(World(), system(boss, ops), running(system(boss, ops))) == [
        "network net",
        "create-volume ops/root",
        "seed ops",
        "define ops",
        "start ops",
        "ready ops",
        "create-volume boss/root",
        "create-volume boss/data",
        "seed boss",
        "define boss",
        "start boss",
        "ready boss",
    ]


@given(systems(), st.data())
@settings(max_examples=100, deadline=None)
def test_what_comes_back_from_a_cut_goes_on_when_all_of_it_is_there(
    declared: ResolvedSystem, data: st.DataObject
) -> None:
    """Their order of start does not matter: none of them starts."""
    memories = {m.id: MemoryRef(SnapshotId("cut"), m.id) for m in declared.machines}
    wanted = {m.name: data.draw(st.sampled_from(list(Wanted))) for m in declared.machines}
    world = World()
    run(world, declared, Goal(wanted, restore=memories), data)
    powers = {m.name: world.machines[m.id].power for m in declared.machines}
    assert powers == {name: _POWERS[want] for name, want in wanted.items()}
    assert set(world.awake) == {name for name, want in wanted.items() if want is Wanted.RUNNING}


def test_machines_stop_in_the_reverse_order() -> None:
    declared = system(machine("ops"), machine("boss", after=("ops",)))
    world = World()
    run(world, declared, running(declared))
    run(world, declared, Goal(dict.fromkeys(["ops", "boss"], Wanted.STOPPED), networks=False))
    assert world.stopped == ["boss", "ops"]
    assert world.networks == {}
    assert len(world.volumes) == 4


def test_a_restart_ends_the_named_boots_once() -> None:
    declared = system(machine("ops"), machine("boss", after=("ops",)))
    world = World()
    run(world, declared, running(declared))
    boots = {machine_id: seen.boot_id for machine_id, seen in world.machines.items()}
    done = run(world, declared, replace(running(declared), end_boots=boots))
    assert done == ["stop boss", "stop ops", "start ops", "ready ops", "start boss", "ready boss"]


def test_a_changed_size_waits_for_permission_to_restart() -> None:
    world = World()
    old, new = system(machine("a")), system(machine("a", memory_bytes=1 << 29))
    run(world, old, running(old))
    assert run(world, new, running(new)) == ["define a"]
    done = run(world, new, replace(running(new), may_restart=True))
    assert done == ["stop a", "start a", "ready a"]


def test_a_removed_machine_keeps_its_data_unless_named() -> None:
    world = World()
    both, one = system(machine("a"), machine("b")), system(machine("a"))
    run(world, both, running(both))
    assert run(world, one, running(one)) == ["network net"]
    done = run(world, one, replace(running(one), may_destroy=frozenset({"b"})))
    assert done == ["stop b", "undefine b", "remove-volume b/root", "remove-volume b/data"]


def test_a_removed_machine_does_not_run_on_without_its_network() -> None:
    world = World()
    both, one = system(machine("a"), machine("b")), system(machine("a"))
    run(world, both, running(both))
    done = run(world, one, Goal({"a": Wanted.STOPPED}, networks=False))
    assert done == ["stop a", "stop b", "remove-network net"]
    assert any(volume.machine_name == "b" for volume in world.volumes.values())


def test_a_network_that_goes_gives_its_ports_back_before_another_is_made() -> None:
    world = World()
    before = system(machine("a"))
    run(world, before, running(before))
    (old,) = before.networks
    renamed = replace(old, id=NetworkId("n2"), spec=replace(old.spec, name="other"))
    moved = replace(machine("a"), nics=(replace(machine("a").nics[0], network_id=NetworkId("n2")),))
    after = replace(before, networks=(renamed,), machines=(moved,))
    done = run(world, after, replace(running(after), may_restart=True))
    assert [key for key in done if "network" in key or key.startswith("st")] == [
        "stop a",
        "remove-network n1",
        "network other",
        "start a",
    ]


def test_failed_steps_hold_back_only_what_depends_on_them() -> None:
    declared = system(machine("a"), machine("b", after=("a",)), machine("c"))
    world = World()
    goal = running(declared)
    while True:
        plan = plan_system(declared, goal, world.view())
        runnable = plan.runnable(given_up={"start a"})
        if not runnable:
            break
        world.do(declared, runnable[0].step)
    assert [step_key(planned.step) for planned in plan.steps] == ["start a", "start b"]


def test_start_order_follows_after_then_the_manifest() -> None:
    order = start_order([machine("c", after=("b",)), machine("a"), machine("b", after=("a",))])
    assert [m.name for m in order] == ["a", "b", "c"]


@given(systems(), st.data())
@settings(max_examples=50, deadline=None)
def test_what_is_made_ahead_is_networks_and_seeds_alone(
    declared: ResolvedSystem, data: st.DataObject
) -> None:
    world, ahead = World(), Goal({}, networks=True, seeds=True)
    made = run(world, declared, ahead, data)
    networks = {f"network {network.spec.name}" for network in declared.networks}
    assert set(made) == networks | {f"seed {declared_machine.name}" for declared_machine in declared.machines}
    given_up = deepcopy(world)
    assert not set(made) & set(run(world, declared, running(declared), data)), "nothing is made twice"
    run(given_up, declared, Goal({}, networks=False, delete=True), data)
    assert not given_up.machines and not given_up.networks
