"""Decide which layers are shared, which nobody needs any more, and which fold shortens a chain next. Pure.

What stands on what follows from chains alone: each volume and each kept cut has one, the top layer first and the
image last. A layer is *free* for a volume if no other chain names it and nothing pins it (an image, or the top of a
kept cut). Only free layers are ever written to or taken out of a chain, so what another volume or a kept cut sees
cannot change, and none of its files is opened for writing behind its back.

Promises of `plan_fold`: it touches free layers only; doing what it says, again and again, ends with a chain of at
most `limit` layers; a layer is copied up (`Pull`) only where no `Commit` is left.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, assert_never

LayerPath = str
"""A layer's file; on one host it names the layer."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Write `top` down into `into`, right below it; `top` goes."""

    top: LayerPath
    into: LayerPath


@dataclass(frozen=True, slots=True)
class Pull:
    """Copy everything between the active layer and `keep` ("": all there is) into the active layer."""

    keep: LayerPath


Fold = Commit | Pull

Keeper = TypeVar("Keeper", bound=Hashable)
"""Whose chain it is: names a volume or a kept cut."""


@dataclass(frozen=True, slots=True)
class Chain:
    """What a volume or a kept cut consists of, top first. The top of a kept cut's chain is pinned."""

    layers: tuple[LayerPath, ...]
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer among all chains of a host. `free`: one chain names it, and nothing pins it."""

    path: LayerPath
    free: bool


def survey(
    chains: Mapping[Keeper, Chain], images: Collection[LayerPath]
) -> Mapping[Keeper, tuple[Layer, ...]]:
    """Each chain with what may be done to its layers. `images` are pinned whoever stands on them."""
    keepers = _keepers(chains)
    pinned = {chain.layers[0] for chain in chains.values() if chain.kept and chain.layers} | set(images)
    return {
        keeper: tuple(
            Layer(path, free=len(keepers[path]) == 1 and path not in pinned) for path in chain.layers
        )
        for keeper, chain in chains.items()
    }


def own_layers(chains: Mapping[Keeper, Chain]) -> Mapping[Keeper, tuple[LayerPath, ...]]:
    """Of each chain the layers that no other names: what goes with it."""
    keepers = _keepers(chains)
    return {
        keeper: tuple(path for path in chain.layers if len(keepers[path]) == 1)
        for keeper, chain in chains.items()
    }


def unneeded(layers: Iterable[LayerPath], chains: Iterable[Chain]) -> tuple[LayerPath, ...]:
    """Those of `layers` that no chain names, each once, in their order."""
    needed = {path for chain in chains for path in chain.layers}
    return tuple(path for path in dict.fromkeys(layers) if path not in needed)


def plan_fold(chain: Sequence[Layer], limit: int, allocated_bytes: Mapping[LayerPath, int]) -> Fold | None:
    """The next fold that brings `chain` (active first) to at most `limit` layers, or None if it has no more.

    The cheapest `Commit` by what it has to write, else a `Pull` that leaves exactly `limit`. None too if the
    active layer is not free, since then there is nothing that may be written to. `limit` is at least 1.
    """
    if len(chain) <= limit or not chain[0].free:
        return None
    commits = [
        Commit(top.path, into.path)
        for over, top, into in zip(chain, chain[1:], chain[2:], strict=False)
        if _may_commit(over, top, into)
    ]
    if commits:
        return min(commits, key=lambda commit: allocated_bytes.get(commit.top, 0))
    return Pull(chain[1 - limit].path if limit > 1 else "")


def fold_refusal(chain: Sequence[Layer], fold: Fold) -> str:
    """Why the fold must not be done to `chain`, or "". One that is done already is not refused."""
    paths = [layer.path for layer in chain]
    if not chain[0].free:
        return "something else stands on its active layer"
    match fold:
        case Commit(top, into):
            if top not in paths:
                return ""
            place = paths.index(top)
            if place == 0:
                return f"{top} is its active layer"
            if paths[place + 1 : place + 2] != [into]:
                return f"{into} is not right below {top}"
            if not _may_commit(*chain[place - 1 : place + 2]):
                return f"something else stands on {top}, on {into} or on the layer above"
        case Pull(keep):
            if keep and keep not in paths[1:]:
                return f"{keep} is not below its active layer"
        case _:
            assert_never(fold)
    return ""


def folded(chain: Sequence[LayerPath], fold: Fold) -> tuple[LayerPath, ...]:
    """The chain that the fold leaves, active first."""
    match fold:
        case Commit(top, _):
            return tuple(path for path in chain if path != top)
        case Pull(keep):
            return (chain[0], *(chain[chain.index(keep) :] if keep else ()))
        case _:
            assert_never(fold)


def is_shortened(chain: Sequence[LayerPath], left: Sequence[LayerPath]) -> bool:
    """Whether `left` is `chain` with layers below the active one left out, or none."""
    return bool(left) and left[0] == chain[0] and tuple(p for p in chain if p in left) == tuple(left)


def _keepers(chains: Mapping[Keeper, Chain]) -> Mapping[LayerPath, set[Keeper]]:
    found: dict[LayerPath, set[Keeper]] = {}
    for keeper, chain in chains.items():
        for path in chain.layers:
            found.setdefault(path, set()).add(keeper)
    return found


def _may_commit(over: Layer, top: Layer, into: Layer) -> bool:
    # The layer above is written to as well: its header names the file that it stands on.
    return over.free and top.free and into.free
