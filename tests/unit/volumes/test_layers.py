"""Folds over small worlds of layers: nothing anybody sees changes, nothing shared is written, chains get short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import event, given, settings
from hypothesis import strategies as st

from forkbed.core.volumes.layers import (
    Chain,
    Commit,
    Fold,
    Layer,
    Pull,
    fold_refusal,
    folded,
    is_shortened,
    own_layers,
    plan_fold,
    survey,
    unneeded,
)

IMAGE = "image"


@dataclass
class World:
    """Chains, and what each layer's file holds: a value by block, and the layer that its header names."""

    chains: dict[str, Chain]
    blocks: dict[str, dict[int, int]]
    headers: dict[str, str]

    def content(self, keeper: str) -> dict[int, int]:
        seen: dict[int, int] = {}
        for path in reversed(self.chains[keeper].layers):
            seen |= self.blocks[path]
        return seen

    def contents(self) -> dict[str, dict[int, int]]:
        return {keeper: self.content(keeper) for keeper in self.chains}

    def files(self) -> dict[str, tuple[dict[int, int], str]]:
        return {path: (dict(blocks), self.headers.get(path, "")) for path, blocks in self.blocks.items()}

    def plan(self, keeper: str, limit: int) -> Fold | None:
        sizes = {path: len(blocks) for path, blocks in self.blocks.items()}
        return plan_fold(survey(self.chains, {IMAGE})[keeper], limit, sizes)

    def do(self, keeper: str, fold: Fold) -> None:
        chain = self.chains[keeper].layers
        match fold:
            case Commit(top, into):
                self.blocks[into] |= self.blocks[top]
                self.headers[chain[chain.index(top) - 1]] = into
            case Pull(keep):
                lower = chain.index(keep) if keep else len(chain)
                for path in chain[1:lower]:
                    self.blocks[chain[0]] = self.blocks[path] | self.blocks[chain[0]]
                self.headers[chain[0]] = keep
        self.chains[keeper] = Chain(folded(chain, fold), kept=self.chains[keeper].kept)
        self.sweep()

    def sweep(self) -> None:
        for path in unneeded(set(self.blocks) - {IMAGE}, self.chains.values()):
            del self.blocks[path]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Layers that grew as they do: written to, cut, forked; and some of the keepers given up."""
    world = World({"v0": Chain(("v0", IMAGE))}, {IMAGE: {0: -1, 1: -1}, "v0": {}}, {"v0": IMAGE})
    for step in range(draw(st.integers(1, 16))):
        keeper = draw(st.sampled_from(sorted(k for k, chain in world.chains.items() if not chain.kept)))
        layers = world.chains[keeper].layers
        fresh = f"l{step}"
        match draw(st.sampled_from(["write", "cut", "cut", "fork"])):
            case "write":
                world.blocks[layers[0]][draw(st.integers(0, 5))] = step
                continue
            case "cut":
                world.chains[f"cut{step}"] = Chain(layers, kept=True)
            case _:
                world.chains[f"cut{step}"] = Chain(layers, kept=True)
                world.chains[f"v{step}"] = Chain((f"f{step}", *layers))
                world.blocks[f"f{step}"], world.headers[f"f{step}"] = {}, layers[0]
        world.chains[keeper] = Chain((fresh, *layers))
        world.blocks[fresh], world.headers[fresh] = {}, layers[0]
    cuts = sorted(keeper for keeper, chain in world.chains.items() if chain.kept)
    volumes = sorted(world.chains.keys() - set(cuts))
    kept = draw(st.lists(st.sampled_from(cuts), max_size=2, unique=True)) if cuts else []
    stay = draw(st.lists(st.sampled_from(volumes), min_size=1, max_size=3, unique=True))
    world.chains = {keeper: chain for keeper, chain in world.chains.items() if keeper in {*kept, *stay}}
    world.sweep()
    return world


def shared(chains: Mapping[str, Chain], mine: str) -> set[str]:
    """What others than `mine` stand on, and what nobody may write to."""
    return {p for keeper, chain in chains.items() if keeper != mine for p in chain.layers} | {IMAGE}


@settings(max_examples=400)
@given(worlds(), st.data())
def test_folding_changes_nothing_that_is_seen_or_shared_and_ends(world: World, data: st.DataObject) -> None:
    keeper = data.draw(st.sampled_from(sorted(k for k, chain in world.chains.items() if not chain.kept)))
    limit = data.draw(st.integers(1, 5))
    before, held, files = world.contents(), shared(world.chains, keeper), world.files()
    while fold := world.plan(keeper, limit):
        surveyed, chain = survey(world.chains, {IMAGE})[keeper], world.chains[keeper].layers
        assert fold_refusal(surveyed, fold) == ""
        if isinstance(fold, Pull):  # only where nothing can be written down
            assert all(fold_refusal(surveyed, Commit(*pair)) for pair in pairwise(chain[1:]))
        event(type(fold).__name__)
        world.do(keeper, fold)
        assert len(world.chains[keeper].layers) < len(chain)
        assert world.contents() == before
    assert len(world.chains[keeper].layers) <= limit
    assert {path: world.files()[path] for path in held} == {path: files[path] for path in held}


@given(worlds())
def test_what_is_own_goes_with_its_keeper_and_nothing_else(world: World) -> None:
    for keeper, own in own_layers(world.chains).items():
        rest = {other: chain for other, chain in world.chains.items() if other != keeper}
        assert set(unneeded(world.chains[keeper].layers, rest.values())) == set(own)


@given(worlds(), st.data())
def test_what_may_not_be_written_to_is_refused(world: World, data: st.DataObject) -> None:
    keeper = data.draw(st.sampled_from(sorted(k for k, chain in world.chains.items() if not chain.kept)))
    chain = world.chains[keeper].layers
    surveyed = survey(world.chains, {IMAGE})[keeper]
    untouchable = shared(world.chains, keeper)
    allowed = {
        (over, top, into)
        for over, top, into in zip(chain, chain[1:], chain[2:], strict=False)
        if not {over, top, into} & untouchable
    }
    top, into = (data.draw(st.sampled_from(chain)) for _ in "ab")
    over = chain[chain.index(top) - 1]
    assert (fold_refusal(surveyed, Commit(top, into)) == "") is ((over, top, into) in allowed)


def layers(*names: str) -> tuple[Layer, ...]:
    """A chain of which those in capitals are not free."""
    return tuple(Layer(name, free=name.islower()) for name in names)


def test_the_cheapest_commit_comes_first() -> None:
    sizes = {"a": 1, "b": 9, "c": 3, "d": 2}
    assert plan_fold(layers("a", "b", "c", "d", "IMAGE"), 3, sizes) == Commit("c", "d")
    assert plan_fold(layers("a", "b", "c", "d", "IMAGE"), 5, sizes) is None


def test_a_kept_layer_blocks_what_would_touch_it() -> None:
    # b would lose its place in the header of K, c may not be written into K
    assert plan_fold(layers("a", "K", "b", "c", "IMAGE"), 3, {}) == Pull("c")
    assert plan_fold(layers("a", "b", "K", "IMAGE"), 3, {}) == Pull("K")
    assert plan_fold(layers("a", "b", "K", "IMAGE"), 1, {}) == Pull("")
    assert plan_fold(layers("A", "b", "c", "d"), 1, {}) is None


def test_a_recorded_chain_loses_layers_and_gains_none() -> None:
    chain = ("a", "b", "c")
    assert is_shortened(chain, chain)
    assert is_shortened(chain, ("a", "c"))
    assert is_shortened(chain, ("a",))
    for wrong in ((), ("b", "c"), ("a", "c", "b"), ("a", "x"), ("a", "b", "b")):
        assert not is_shortened(chain, wrong)


def test_a_fold_that_is_done_is_no_reason_to_refuse() -> None:
    chain = layers("a", "c", "IMAGE")
    assert fold_refusal(chain, Commit("b", "c")) == ""
    assert folded(("a", "c", "IMAGE"), Commit("b", "c")) == ("a", "c", "IMAGE")
    assert "not below" in fold_refusal(chain, Pull("b"))
    assert folded(("a", "c", "IMAGE"), Pull("c")) == ("a", "c", "IMAGE")
