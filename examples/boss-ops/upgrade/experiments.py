#!/usr/bin/python3
"""Keeps experiments, each in a project: a row in PostgreSQL and a file on /proj for each.

GET  /health              200 if the database answers and /proj is the file server's
GET  /experiments         all, oldest first
GET  /experiments/count   {"count": N}
GET  /experiments/files   200 if every experiment has its file, else 503 and {"without a file": [ID, …]}
POST /experiments         {"project": PROJECT, "name": NAME, "owner": OWNER} gives 201 and the experiment
"""

import json
import os
import re
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg2
from psycopg2.extras import RealDictCursor

FILES = Path("/proj/experiments")
MAX_BODY_BYTES = 64 * 1024
COLUMNS = "id, project, name, owner, to_char(created_at, 'YYYY-MM-DD\"T\"HH24:MI:SSOF') AS created_at"


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
    rows = query("SELECT id FROM project_experiments ORDER BY id")
    present = {file.stem for file in FILES.glob("*/*.json")}
    return [row["id"] for row in rows if str(row["id"]) not in present]


def create(project, name, owner):
    """Row and file appear together: without the file the row is rolled back."""
    with closing(connect()) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO project_experiments (project, name, owner) VALUES (%s, %s, %s) RETURNING {COLUMNS}",
            (project, name, owner),
        )
        experiment = cursor.fetchone()
        file = FILES / project / f"{experiment['id']}.json"
        file.parent.mkdir(exist_ok=True)
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
                self.answer(200, query(f"SELECT {COLUMNS} FROM project_experiments ORDER BY id"))
            case "/experiments/count":
                self.answer(200, query("SELECT count(*) AS count FROM project_experiments")[0])
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
            project, name = str(wanted.get("project", "main")), str(wanted["name"])
            owner = str(wanted.get("owner", "nobody")).lower()
            if not re.fullmatch("[a-z][a-z0-9-]{0,30}", project):
                raise ValueError(project)
        except (ValueError, KeyError, TypeError, AttributeError):
            return 400, {"problem": 'send {"project": …, "name": …, "owner": …}'}
        return 201, create(project, name, owner)

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
    query("SELECT id FROM project_experiments LIMIT 1")  # the upgrade made it
    ThreadingHTTPServer(("", 80), Handler).serve_forever()
