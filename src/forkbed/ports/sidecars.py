"""Durable files on a host with what cannot be seen in the hypervisor, so that the database can be lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Sidecars(Protocol):
    def write(self, kind: str, name: str, content: Mapping[str, object]) -> None:
        """Store a JSON document under `kind`/`name` (both plain names); on disk when this returns."""

    def read_all(self, kind: str) -> Mapping[str, Mapping[str, object]]:
        """Every document of that kind by name."""

    def remove(self, kind: str, name: str) -> None: ...
