"""Which local files an image recipe names, so that the client can send them along. Light: no pydantic."""

from __future__ import annotations

from forkbed.config.variables import to_data
from forkbed.config.yamlsource import read_yaml


def recipe_local_files(text: str, file_name: str) -> frozenset[str]:
    """The paths of the local files that a recipe names, as written; odd entries are passed over."""
    data = to_data(read_yaml(text, file_name).root).value
    entries = data.get("files") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        return frozenset()
    sources = (entry.get("source") for entry in entries if isinstance(entry, dict))
    return frozenset(source for source in sources if isinstance(source, str))
