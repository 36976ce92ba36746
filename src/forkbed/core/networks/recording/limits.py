"""What keeps a guest from filling the recorder: a rate, and a memory of what was written down lately. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Rate:
    """So many in a second on average, and `burst` at once."""

    per_s: float
    burst: int
    _left: float = field(init=False)
    _looked_at: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._left = self.burst

    def admits(self, now: float) -> bool:
        """Whether one more may come; counts it if so. `now` is a clock that never goes back."""
        self._left = min(self.burst, self._left + (now - self._looked_at) * self.per_s)
        self._looked_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class Recent:
    """Keys met within the last `seconds`; the `most` newest of them."""

    seconds: float
    most: int
    _met: dict[Hashable, float] = field(init=False, default_factory=dict)

    def is_new(self, key: Hashable, now: float) -> bool:
        """Whether the key was not met lately, or so many others since that it is forgotten."""
        met = self._met.get(key)
        if met is not None and now - met < self.seconds:
            return False
        self._met.pop(key, None)
        self._met[key] = now
        if len(self._met) > self.most:
            del self._met[next(iter(self._met))]
        return True
