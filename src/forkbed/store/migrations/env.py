"""How alembic runs the migrations: on the connection that the store hands it, in its transaction."""

from __future__ import annotations

from alembic import context

from forkbed.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
