"""Generations, maintenance, rehearsals."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Bring the schema up."""
    op.add_column("systems", sa.Column("generation", sa.Integer, nullable=False, server_default="1"))
    op.add_column("systems", sa.Column("maintenance", sa.Boolean, nullable=False, server_default="0"))
    op.add_column("systems", sa.Column("kept_of", sa.String))
    op.add_column("systems", sa.Column("kept_at", sa.Float))
    op.create_table(
        "rehearsals",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("system_id", sa.String, sa.ForeignKey("systems.id", ondelete="CASCADE"), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
