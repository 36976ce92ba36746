"""Decide which layers of a volume are shared, and which fold shortens its chain next. Pure.

Promises: no fold writes to a layer that is pinned or that more than one thing stands on.
"""

from __future__ import annotations

from dataclasses import dataclass

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
