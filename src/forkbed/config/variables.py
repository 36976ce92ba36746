"""Fill in a manifest's variables: `${name}` in any value, `$${` for a literal `${`.

A variable is declared under `variables:` with a default, or without a value and then must be set. What is set
from outside wins. Values are texts, filled in once: what comes out is not looked through again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from forkbed.base.errors import Problem
from forkbed.base.words import quoted, suggest
from forkbed.config import yamlsource
from forkbed.config.problems import Path
from forkbed.config.yamlsource import Node, Scalar

Expand = Callable[[str], str]

_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_FORM = "write ${name}, or $${ for the two characters themselves"


class NoValue(Enum):
    """Stands in data where a key has no value: an error wherever something is optional too, unlike None."""

    NO_VALUE = "no value"


NO_VALUE = NoValue.NO_VALUE


class ExpansionError(Exception):
    """A text that `Expand` cannot expand: what is wrong, what would be right. `told`: was said elsewhere."""

    def __init__(self, wrong: str, right: str = "", *, told: bool = False) -> None:
        super().__init__(wrong)
        self.wrong = wrong
        self.right = right
        self.told = told


@dataclass(slots=True)
class Data:
    """A document as plain dicts, lists and texts. `unfilled` are the paths of values that were not expanded."""

    value: Any
    problems: list[Problem] = field(default_factory=list)
    unfilled: set[Path] = field(default_factory=set)


def to_data(root: Node, expand: Expand | None = None, *, verbatim: str = "") -> Data:
    """The tree as plain data, every value run through `expand`, but for those under the top key `verbatim`."""
    done = Data(None)
    path: list[str | int] = []
    size = 0

    def fill(text: str) -> str:
        nonlocal size
        assert expand is not None
        if path[:1] == [verbatim]:
            return text
        try:
            filled = expand(text)
        except ExpansionError as error:
            done.unfilled.add(tuple(path))
            if not error.told:
                done.problems.append(Problem(tuple(path), error.wrong, error.right))
            return text
        size += len(filled)
        if size > yamlsource.MAX_EXPANDED:
            raise _TooLarge
        return filled

    def convert(node: Node) -> Any:
        if isinstance(node, Scalar):
            if node.text is None:
                return NO_VALUE
            return node.text if expand is None or "$" not in node.text else fill(node.text)
        if isinstance(node, yamlsource.Mapping):
            entries: dict[str, Any] = {}
            for key, child in node.entries.items():
                path.append(key)
                entries[key] = convert(child)
                path.pop()
            return entries
        items: list[Any] = []
        for index, child in enumerate(node.items):
            path.append(index)
            items.append(convert(child))
            path.pop()
        return items

    try:
        done.value = convert(root)
    except _TooLarge:
        done.problems = [Problem(tuple(path), "too large with all variables filled in", "use shorter values")]
        done.unfilled = {()}
    return done


class _TooLarge(Exception):
    """Filling in variables makes more text than anybody wants."""


def expander(root: Node, given: Mapping[str, str]) -> tuple[Expand, list[Problem]]:
    """What fills in a text of the manifest, and problems with the variables as such."""
    declared = _declared(root)
    problems = [
        Problem(
            ("variables",),
            f"the variable {quoted(name)} was set but is not declared here",
            _among(name, declared),
        )
        for name in given
        if name not in declared
    ]
    values: dict[str, str | None] = {}
    for name, node in declared.items():
        path = ("variables", name)
        if name in given:
            values[name] = given[name]
        elif node.text is None:
            problems.append(
                Problem(path, "has no value", f"set it with --set {name}=…, or give it a default here")
            )
            values[name] = None
        else:
            values[name] = _default(node.text, path, problems)

    def expand(text: str) -> str:
        return _REFERENCE.sub(lambda match: _value(match, values), text)

    return expand, problems


def _declared(root: Node) -> dict[str, Scalar]:
    """The entries of `variables:`; anything there that is no scalar is a problem of the document's shape."""
    section = root.entries.get("variables") if isinstance(root, yamlsource.Mapping) else None
    if not isinstance(section, yamlsource.Mapping):
        return {}
    return {name: node for name, node in section.entries.items() if isinstance(node, Scalar)}


def _default(text: str, path: tuple[str, str], problems: list[Problem]) -> str:
    if "${" in text.replace("$${", ""):
        problems.append(
            Problem(path, "a default cannot use other variables", "write the text itself, or $${ for ${")
        )
    return text.replace("$${", "${")


def _value(match: re.Match[str], values: Mapping[str, str | None]) -> str:
    if match.group() == "$${":
        return "${"
    name = match.group(1)
    if not name:
        raise ExpansionError("`${` without the name of a variable and `}`", _FORM)
    if name not in values:
        raise ExpansionError(f"there is no variable {quoted(name)}", _among(name, values))
    value = values[name]
    if value is None:
        raise ExpansionError(f"the variable {quoted(name)} has no value", told=True)
    return value


def _among(name: str, known: Mapping[str, object]) -> str:
    if not known:
        return f"declare it under `variables:`; {_FORM}"
    return suggest(name, list(known))
