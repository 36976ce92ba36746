"""Bytes that belong to revisions: manifest files by content, secrets by a version of their own."""

from __future__ import annotations

from typing import Protocol


class Contents(Protocol):
    def put(self, data: bytes) -> str:
        """Keep the bytes; returns their BLAKE3 in hexadecimal. On disk when this returns."""

    def get(self, content_hash: str) -> bytes:
        """The bytes of that hash, verified. NOT_FOUND if they are gone, FAULT if they were altered."""

    def put_secret(self, version: str, data: bytes) -> None:
        """Keep a secret's bytes (0600) under a version that says nothing about them."""

    def get_secret(self, version: str) -> bytes: ...

    def keep_only(self, hashes: frozenset[str], versions: frozenset[str]) -> int:
        """Remove everything else; returns how many were removed."""
