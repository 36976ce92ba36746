"""What is kept of the files and secrets that revisions brought, and what is forgotten when nothing names it.

Callers hold the lock `Surroundings.accepting`: between storing a content and the revision that names it nobody
may decide that nothing names it.
"""

from __future__ import annotations

from forkbed.core.operations.records import OperationKind
from forkbed.engine.acceptance import kept_secrets
from forkbed.engine.host import Host
from forkbed.ports.store import Store


def forget_unused_contents(host: Host, store: Store) -> int:
    """Remove every file and secret that no revision, no rehearsal and no image build under way names; returns how many.

    Nothing is removed while a sidecar tells of a system that the database does not know: its contents may be
    all that is left of it.
    """
    records = store.systems()
    if set(host.sidecars.read_all("systems")) - {record.id for record in records}:
        return 0
    hashes: set[str] = set()
    versions: set[str] = set()
    for record in records:
        for revision in store.revisions(record.id):
            hashes |= set(revision.files.values())
            for machine in revision.spec.machines:
                hashes |= {file.content_hash for file in machine.files}
                versions |= {secret.version for secret in machine.secrets}
        for rehearsal in store.rehearsals(record.id):  # a promotion pushes them again
            hashes |= {file.content_hash for step in rehearsal.steps for file in step.files}
    for operation in store.operations(active_only=True, limit=100_000):
        files = operation.goal.get("files")
        if operation.kind is OperationKind.IMAGE_BUILD and isinstance(files, dict):
            hashes |= set(files.values())
    return host.contents.keep_only(frozenset(hashes), kept_secrets(frozenset(versions)))
