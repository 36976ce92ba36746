"""Snapshots, forks' notes and expiry, and operations on several systems."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Bring the schema up."""
    op.add_column("systems", sa.Column("message", sa.Text, nullable=False, server_default=""))
    op.add_column("systems", sa.Column("expires_at", sa.Float))
    op.add_column("operations", sa.Column("other_systems", sa.Text, nullable=False, server_default="[]"))
    op.create_table(
        "snapshots",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("system_id", sa.String, sa.ForeignKey("systems.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_index("snapshots_by_name", "snapshots", ["system_id", "name"], unique=True)
