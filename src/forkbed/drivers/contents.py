"""Contents of revisions as files: `contents/HASH` (0600, verified when read) and `secrets/VERSION` (0600)."""

from __future__ import annotations

from pathlib import Path

from blake3 import blake3

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers.durable import write_durably


class FileContents:
    """`ports.contents.Contents` below `directory`, which only root may enter."""

    def __init__(self, directory: Path) -> None:
        """Make the directories if they are missing."""
        self._contents = directory / "contents"
        self._secrets = directory / "secrets"
        for path in (self._contents, self._secrets):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, data: bytes) -> str:
        """Keep the bytes under their hash."""
        content_hash = blake3(data).hexdigest()
        path = self._contents / content_hash
        if not path.exists():
            write_durably(path, data)
        return content_hash

    def get(self, content_hash: str) -> bytes:
        """The bytes of that hash, checked against it."""
        data = _read(self._contents / content_hash, f"content {content_hash[:12]}")
        if blake3(data).hexdigest() != content_hash:
            raise OperationalError(
                Kind.FAULT,
                f"content {content_hash[:12]}",
                "the stored file was altered: its hash differs",
                "run `forkbed up` with the manifest again, which stores it anew",
            )
        return data

    def put_secret(self, version: str, data: bytes) -> None:
        """Keep a secret under its version."""
        write_durably(self._secrets / version, data)

    def get_secret(self, version: str) -> bytes:
        """The secret of that version."""
        return _read(self._secrets / version, "secret")

    def keep_only(self, hashes: frozenset[str], versions: frozenset[str]) -> int:
        """Remove what no revision names any more."""
        removed = 0
        for directory, kept in ((self._contents, hashes), (self._secrets, versions)):
            for path in directory.iterdir():
                if path.name not in kept:
                    path.unlink()
                    removed += 1
        return removed


def _read(path: Path, subject: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise OperationalError(
            Kind.NOT_FOUND, subject, "is not stored any more", "run `forkbed up` with the manifest again"
        ) from error
