#!/bin/sh
# The table gets another name and a column in its middle, and owners are written small.
set -e
cd /  # where postgres may be, too
ask() { runuser -u postgres -- psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 experiments; }

ask <<'SQL'
BEGIN;
CREATE TABLE project_experiments (
    id integer PRIMARY KEY DEFAULT nextval('experiments_id_seq'),
    project text NOT NULL DEFAULT 'main',
    name text NOT NULL,
    owner text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO project_experiments (id, name, owner, created_at)
    SELECT id, name, lower(owner), created_at FROM experiments;
ALTER SEQUENCE experiments_id_seq OWNED BY NONE;
ALTER TABLE project_experiments OWNER TO experiments;
DROP TABLE experiments;
COMMIT;
ANALYZE project_experiments;
SELECT count(*) || ' experiments moved' FROM project_experiments;
SQL
