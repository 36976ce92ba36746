"""The tables as SQLAlchemy sees them. A change here needs a migration in `migrations/versions`."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

installation = Table("installation", metadata, Column("id", String(4), primary_key=True))

systems = Table(
    "systems",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("resolved", Text, nullable=False),
    Column("wanted", Text, nullable=False),
    Column("up", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    Column("message", Text, nullable=False, server_default=""),
    Column("expires_at", Float),
    Column("generation", Integer, nullable=False, server_default="1"),
    Column("maintenance", Boolean, nullable=False, server_default="0"),
    Column("kept_of", String),
    Column("kept_at", Float),
)

rehearsals = Table(
    "rehearsals",
    metadata,
    Column("id", String, primary_key=True),
    Column("system_id", String, ForeignKey("systems.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("document", Text, nullable=False),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("id", String, primary_key=True),
    Column("system_id", String, ForeignKey("systems.id", ondelete="CASCADE"), nullable=False),
    Column("name", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("document", Text, nullable=False),
    Index("snapshots_by_name", "system_id", "name", unique=True),
)

revisions = Table(
    "revisions",
    metadata,
    Column("system_id", String, ForeignKey("systems.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("document", Text, nullable=False),
)

operations = Table(
    "operations",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("system_id", String),
    Column("subject", String, nullable=False),
    Column("goal", Text, nullable=False),
    Column("uid", Integer, nullable=False),
    Column("account", String, nullable=False),
    Column("command", Text, nullable=False),
    Column("status", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("error", Text),
    Column("result", Text),
    Column("idempotency_key", String),
    Column("other_systems", Text, nullable=False, server_default="[]"),
    Index("operations_by_status", "status"),
    Index("operations_by_system", "system_id", "created_at"),
    Index("operations_by_idempotency_key", "uid", "idempotency_key", unique=True),
)

journal = Table(
    "journal",
    metadata,
    Column("operation_id", String, ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("key", String, nullable=False),
    Column("verb", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("host", String, nullable=False),
    Column("status", String, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("message", Text, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("kind", String, nullable=False),
    Column("system", String, nullable=False),
    Column("machine", String, nullable=False),
    Column("operation_id", String, nullable=False),
    Column("attributes", Text, nullable=False),
    Index("events_by_system", "system", "sequence"),
    sqlite_autoincrement=True,
)

ready_marks = Table(
    "ready_marks",
    metadata,
    Column("machine_id", String, primary_key=True),
    Column("boot_id", String, nullable=False),
    Column("digest", String, nullable=False),
)
