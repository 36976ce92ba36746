"""Repeat beside the machines what the database says of a system, so that the database can be lost.

The database goes first: a sidecar tells only of what was accepted. What a crash kept from being written is
written at the next start, see `mend_sidecars`.
"""

from __future__ import annotations

from pydantic import TypeAdapter

from forkbed.base.ids import SnapshotId
from forkbed.core.snapshots.records import Snapshot, SnapshotStatus
from forkbed.engine.host import Host
from forkbed.ports.store import RevisionRecord, Store, SystemRecord

_REVISION = TypeAdapter(RevisionRecord)
_SNAPSHOT = TypeAdapter(Snapshot)


def write_sidecars(host: Host, store: Store, record: SystemRecord) -> None:
    """Store the system's newest revision and its name on the host."""
    newest = store.revisions(record.id)[-1]
    document = _REVISION.dump_python(newest, mode="json")
    host.sidecars.write("revisions", f"{record.id}.{newest.number}", document)
    installation = store.installation_id()
    summary = {"name": record.name, "revision": newest.number, "installation": installation}
    host.sidecars.write("systems", record.id, summary)


def mend_sidecars(host: Host, store: Store) -> None:
    """Write what a crash between the database and the sidecars left out."""
    written = host.sidecars.read_all("systems")
    for record in store.systems():
        if written.get(record.id, {}).get("revision") != record.revision:
            write_sidecars(host, store, record)
    kept = host.sidecars.read_all("snapshots")
    for snapshot in store.snapshots():
        if snapshot.status is SnapshotStatus.COMPLETE and snapshot.id not in kept:
            write_snapshot_sidecar(host, snapshot)


def write_snapshot_sidecar(host: Host, snapshot: Snapshot) -> None:
    """Store a complete snapshot on the host."""
    host.sidecars.write("snapshots", snapshot.id, _SNAPSHOT.dump_python(snapshot, mode="json"))


def forget_snapshot(host: Host, snapshot_id: SnapshotId) -> None:
    """Remove what is remembered of a snapshot on the host."""
    host.sidecars.remove("snapshots", snapshot_id)


def forget_system(host: Host, store: Store, record: SystemRecord) -> None:
    """Remove what is remembered of a system whose machines, volumes and networks are gone."""
    for name in host.sidecars.read_all("revisions"):
        if name.startswith(f"{record.id}."):
            host.sidecars.remove("revisions", name)
    host.sidecars.remove("systems", record.id)
    store.delete_system(record.id)
