"""The keys by which host and guests know each other: one to log in with, one per guest to be recognised by.

All lie below `<state>/ssh`, private ones 0600. A guest's host key belongs to its instance id, so it stays the same for
a rebuilt seed and for a fork, and no other guest is ever taken for it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import InstallationId
from forkbed.drivers import processes
from forkbed.drivers.durable import sync_directory, write_durably

_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PRIVATE = "key"
_PUBLIC = "key.pub"
_KNOWN_HOSTS = "known_hosts"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An ed25519 key in OpenSSH's form. `made_at` is when, in whole seconds since the epoch."""

    private: bytes
    public: str  # one line without its end
    made_at: int


class KeyStore:
    """The keys of one installation. Thread-safe."""

    def __init__(self, directory: Path, installation: InstallationId) -> None:
        """Makes the directory; keys are made when first needed."""
        self._directory = directory
        self._comment = f"forkbed-{installation}"
        self._lock = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def login_key_path(self) -> Path:
        """The private key that opens every guest of the installation; made on first use."""
        self._pair(self._directory / "login", self._comment)
        return self._directory / "login" / _PRIVATE

    def login_key(self) -> KeyPair:
        """The installation's own key pair."""
        return self._pair(self._directory / "login", self._comment)

    def host_key(self, instance_id: str) -> KeyPair:
        """The key by which the guest of this instance id is recognised."""
        return self._pair(self._host_directory(instance_id), instance_id)

    def known_hosts_path(self, instance_id: str) -> Path:
        """A `known_hosts` file that holds the guest's key under its instance id, and nothing else."""
        path = self._host_directory(instance_id) / _KNOWN_HOSTS
        line = " ".join([instance_id, *self.host_key(instance_id).public.split()[:2]])
        if not path.exists():
            write_durably(path, f"{line}\n".encode())
        return path

    def forget_host(self, instance_id: str) -> None:
        """Remove the guest's key."""
        directory = self._host_directory(instance_id)
        with self._lock:
            try:
                shutil.rmtree(directory)
            except FileNotFoundError:
                return
            except OSError as error:
                raise OperationalError(
                    Kind.FAULT, str(directory), f"cannot be removed: {error.strerror}"
                ) from error

    def _host_directory(self, instance_id: str) -> Path:
        if not _PLAIN_ID.fullmatch(instance_id):
            raise ValueError(f"not an instance id: {instance_id!r}")
        return self._directory / "hosts" / instance_id

    def _pair(self, directory: Path, comment: str) -> KeyPair:
        private, public = directory / _PRIVATE, directory / _PUBLIC
        with self._lock:
            if not directory.exists():
                self._make(directory, comment)
            try:
                return KeyPair(private.read_bytes(), public.read_text().strip(), int(private.stat().st_mtime))
            except OSError as error:
                raise OperationalError(
                    Kind.FAULT, str(directory), f"the key cannot be read: {error.strerror}"
                ) from error

    def _make(self, directory: Path, comment: str) -> None:
        """A directory with both halves, there at once or not at all."""
        directory.parent.mkdir(exist_ok=True, mode=0o700)
        draft = Path(tempfile.mkdtemp(prefix=".new-", dir=directory.parent))
        try:
            processes.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", draft / _PRIVATE],
                subject="ssh key",
            )
            sync_directory(draft)
            draft.rename(directory)
            sync_directory(directory.parent)
        except OSError as error:
            raise OperationalError(
                Kind.FAULT, str(directory), f"the key cannot be stored: {error.strerror}"
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
