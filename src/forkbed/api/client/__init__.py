"""The typed client of the HTTP API. Importing it loads neither FastAPI nor SQLAlchemy."""

from forkbed.api.client.client import Client as Client
