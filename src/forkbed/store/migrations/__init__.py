"""The history of the tables, applied by alembic when the store is opened."""
