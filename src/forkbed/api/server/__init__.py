"""The HTTP API over a Unix socket: who may ask, what each route answers, and how the server runs."""
