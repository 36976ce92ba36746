#!/usr/bin/python3
"""Keeps experiments: a row in PostgreSQL and a file on /proj for each.

GET  /health              200 if the database answers and /proj is the file server's
GET  /experiments         all, oldest first
GET  /experiments/count   {"count": N}
GET  /experiments/files   200 if every experiment has its file, else 503 and {"without a file": [ID, …]}
POST /experiments         {"name": NAME, "owner": OWNER} gives 201 and the experiment
"""

import json
import os
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg2
from psycopg2.extras import RealDictCursor

FILES = Path("/proj/experiments")
MAX_BODY_BYTES = 64 * 1024
TABLE = """
CREATE TABLE IF NOT EXISTS experiments (
    id serial PRIMARY KEY,
    name text NOT NULL,
    owner text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
)"""
COLUMNS = "id, name, owner, to_char(created_at, 'YYYY-MM-DD\"T\"HH24:MI:SSOF') AS created_at"


def connect():
    """A connection as the account that this runs under."""
    return psycopg2.connect("dbname=experiments", connect_timeout=5, cursor_factory=RealDictCursor)


def query(statement, values=()):
    """The rows that one statement gives, in a transaction of its own."""
    with closing(connect()) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall()


def without_file():
    """Ids of experiments whose file is not there."""
    # First: a file is there before its row is seen.
    rows = query("SELECT id FROM experiments ORDER BY id")
    present = {file.stem for file in FILES.glob("*.json")}
    return [row["id"] for row in rows if str(row["id"]) not in present]


def create(name, owner):
    """Row and file appear together: without the file the row is rolled back."""
    with closing(connect()) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO experiments (name, owner) VALUES (%s, %s) RETURNING {COLUMNS}", (name, owner)
        )
        experiment = cursor.fetchone()
        file = FILES / f"{experiment['id']}.json"
        with file.open("w") as stream:
            json.dump(experiment, stream)
            stream.flush()
            os.fsync(stream.fileno())
        return experiment


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        match self.path:
            case "/health":
                query("SELECT 1 AS one")
                there = FILES.is_dir() and os.path.ismount("/proj")
                self.answer(
                    *((200, {"status": "good"}) if there else (503, {"problem": "/proj is not there"}))
                )
            case "/experiments":
                self.answer(200, query(f"SELECT {COLUMNS} FROM experiments ORDER BY id"))
            case "/experiments/count":
                self.answer(200, query("SELECT count(*) AS count FROM experiments")[0])
            case "/experiments/files":
                missing = without_file()
                self.answer(503 if missing else 200, {"without a file": missing})
            case _:
                self.answer(404, {"problem": "there is nothing here; see /experiments"})

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        if self.path != "/experiments":
            self.answer(404, {"problem": "experiments are made by POST /experiments"})
        elif length > MAX_BODY_BYTES:
            self.answer(413, {"problem": f"at most {MAX_BODY_BYTES} bytes"})
        else:
            self.answer(*self.post(self.rfile.read(length)))

    def post(self, body):
        """Status and answer for a new experiment."""
        try:
            wanted = json.loads(body)
            name, owner = str(wanted["name"]), str(wanted.get("owner", "nobody"))
        except (ValueError, KeyError, TypeError, AttributeError):
            return 400, {"problem": 'send {"name": …, "owner": …}'}
        return 201, create(name, owner)

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except ConnectionError:  # nobody waits for the answer any more
            self.close_connection = True
        except (psycopg2.Error, OSError) as error:
            self.close_connection = True
            self.answer(503, {"problem": str(error).strip()})

    def answer(self, status, content):
        body = json.dumps(content).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    query(TABLE + "; SELECT 1")
    ThreadingHTTPServer(("", 80), Handler).serve_forever()
