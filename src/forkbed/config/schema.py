"""JSON Schemas (2020-12) of the documents that people write, for editors and other tools.

Made of the models that read the documents, so the two cannot disagree on keys. A schema is a little more
generous than the reader with values in which variables may stand.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(model: type[BaseModel], title: str, examples: list[dict[str, Any]]) -> dict[str, Any]:
    """The schema of a document."""
    made = _tidied(model.model_json_schema(mode="validation"))
    assert isinstance(made, dict)
    return {"$schema": DIALECT, **made, "title": title, "examples": examples}


def _tidied(schema: Any) -> Any:
    """Without "or null" of optional keys (a key without a value is an error here) and made-up titles; names are
    as strict as other keys."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {key: _tidied(value) for key, value in schema.items()}
    if isinstance(tidy.get("title"), str):
        del tidy["title"]
    if "patternProperties" in tidy:
        tidy["additionalProperties"] = False
    if "default" in tidy and tidy["default"] is None:
        del tidy["default"]
        arms = [arm for arm in tidy.get("anyOf", []) if arm != {"type": "null"}]
        if len(arms) == 1:
            del tidy["anyOf"]
            tidy = {**arms[0], **tidy}
        elif arms:
            tidy["anyOf"] = arms
    return tidy


MANIFEST_EXAMPLE: dict[str, Any] = {
    "version": 1,
    "system": "shop",
    "networks": {"inside": {"subnet": "10.1.0.0/24", "uplink": "nat"}},
    "machines": {
        "db": {
            "image": "debian:dev",
            "memory": "1GiB",
            "volumes": {"data": {"size": "2GiB", "mount": "/srv/db"}},
        },
        "web": {
            "image": "debian:dev",
            "after": ["db"],
            "publish": ["8080:80"],
            "setup": ["systemctl enable --now nginx"],
            "ready": [{"http": {"port": 80, "path": "/health"}}],
        },
    },
}

RECIPE_EXAMPLE: dict[str, Any] = {
    "version": 1,
    "name": "web",
    "base": "debian-12",
    "packages": ["nginx"],
    "files": [{"path": "/etc/nginx/conf.d/app.conf", "source": "app.conf"}],
    "commands": ["systemctl enable nginx"],
    "size": "4GiB",
}

STEPS_EXAMPLE: dict[str, Any] = {
    "version": 1,
    "steps": [
        {
            "name": "New application",
            "machine": "web",
            "push": [{"path": "/opt/app/main.py", "source": "main.py", "mode": "0755"}],
            "run": "systemctl restart app",
        },
        {"machine": "db", "script": "migrate.sh", "user": "postgres", "timeout": "5m"},
        {"machine": "db", "reboot": True},
    ],
}
