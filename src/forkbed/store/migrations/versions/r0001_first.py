"""The first tables: systems, revisions, operations, journal, events, ready marks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table of the first version."""
    op.create_table("installation", sa.Column("id", sa.String(4), primary_key=True))
    op.create_table(
        "systems",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("resolved", sa.Text, nullable=False),
        sa.Column("wanted", sa.Text, nullable=False),
        sa.Column("up", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False),
    )
    op.create_table(
        "revisions",
        sa.Column("system_id", sa.String, sa.ForeignKey("systems.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
    )
    _create_operations()
    op.create_table(
        "events",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("system", sa.String, nullable=False),
        sa.Column("machine", sa.String, nullable=False),
        sa.Column("operation_id", sa.String, nullable=False),
        sa.Column("attributes", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_system", "events", ["system", "sequence"])
    op.create_table(
        "ready_marks",
        sa.Column("machine_id", sa.String, primary_key=True),
        sa.Column("boot_id", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
    )


def _create_operations() -> None:
    op.create_table(
        "operations",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("system_id", sa.String),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("goal", sa.Text, nullable=False),
        sa.Column("uid", sa.Integer, nullable=False),
        sa.Column("account", sa.String, nullable=False),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("ended_at", sa.Float),
        sa.Column("error", sa.Text),
        sa.Column("result", sa.Text),
        sa.Column("idempotency_key", sa.String),
    )
    op.create_index("operations_by_status", "operations", ["status"])
    op.create_index("operations_by_system", "operations", ["system_id", "created_at"])
    op.create_index("operations_by_idempotency_key", "operations", ["uid", "idempotency_key"], unique=True)
    op.create_table(
        "journal",
        sa.Column(
            "operation_id", sa.String, sa.ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("verb", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("message", sa.Text, nullable=False),
    )
