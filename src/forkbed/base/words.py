"""Words in messages to people: quoting what they wrote, suggesting what they may have meant. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LISTED = 12
_COMPARED = 100


def quoted(value: str) -> str:
    """A value in a message: in back quotes, shortened, in one line."""
    line = value if value.isprintable() else repr(value)[1:-1]
    return f"`{line[:40]}…`" if len(line) > 41 else f"`{line}`"


def suggest(word: str, known: Iterable[str]) -> str:
    """What may have been meant by `word`, else what there is to choose from; "" if there is nothing."""
    names = list(known)
    if len(names) > _COMPARED:  # comparing is slow: a manifest of many machines may have many errors
        alike = [name for name in names if name[:1] == word[:1] and abs(len(name) - len(word)) <= 1]
        close = get_close_matches(word, alike[:_COMPARED], n=1, cutoff=0.6)
    else:
        close = get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    more = f", … ({len(names)} in all)" if len(names) > _LISTED else ""
    return "one of " + ", ".join(names[:_LISTED]) + more if names else ""
