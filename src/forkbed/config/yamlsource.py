"""Read YAML into a tree of text that knows its places: where is each key and value in the file?

PyYAML's C parser (libyaml 0.2.5) gives the events; its resolver, which guesses types, is not used. ruamel.yaml's C
parser is libyaml 0.1.7, which refuses `{image: debian:dev}`. Every scalar stays the text that was
written (`on`, `1:30` and `010` too) and whoever knows what is expected reads it; only a plain empty scalar, `~`
or `null` is no value. Promises: no exception but `ManifestInvalid`, and bounded time and memory for any text,
"billion laughs" included, since aliases are counted at their full expanded size.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from yaml._yaml import CParser  # type: ignore[import-untyped]
from yaml.error import MarkedYAMLError, YAMLError  # type: ignore[import-untyped]
from yaml.events import (  # type: ignore[import-untyped]
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from forkbed.config.problems import LocatedProblem, ManifestInvalid, Path, render_path

MAX_TEXT_CHARACTERS = 8 * 1024 * 1024
MAX_EXPANDED = 16 * 1024 * 1024  # characters with all aliases written out, and _NODE_COST for each node
MAX_DEPTH = 40
_NODE_COST = 32

_NO_VALUE = frozenset({"", "~", "null", "Null", "NULL"})
_FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


@dataclass(slots=True)
class Scalar:
    """`text` as written, None where there is no value."""

    line: int
    column: int
    text: str | None
    cost: int


@dataclass(slots=True)
class Sequence:
    line: int
    column: int
    items: list[Node]
    cost: int = _NODE_COST


@dataclass(slots=True)
class Mapping:
    """`keys` holds the places of the keys. Keys that came in by `<<` have the places where they were written."""

    line: int
    column: int
    entries: dict[str, Node]
    keys: dict[str, tuple[int, int]]
    cost: int = _NODE_COST


Node = Scalar | Sequence | Mapping


class Positions:
    """Where things are in a file: finds the place of a path, or of the nearest thing above it that is there."""

    def __init__(self, root: Node) -> None:
        self._root = root

    def locate(self, path: Path, *, on_key: bool = False) -> tuple[int, int]:
        """Line and column, from 1, of the value at `path`, or of its key."""
        node = self._root
        place = (node.line, node.column)
        for index, part in enumerate(path):
            if isinstance(node, Mapping) and isinstance(part, str) and part in node.entries:
                key = node.keys[part]
                node = node.entries[part]
                last = index == len(path) - 1
                # A block below its key, or nothing, is best found by the key; a value by itself.
                at_key = (last and on_key) or not isinstance(node, Scalar) or node.text is None
                place = key if at_key else (node.line, node.column)
            elif isinstance(node, Sequence) and isinstance(part, int) and 0 <= part < len(node.items):
                node = node.items[part]
                place = (node.line, node.column)
            else:
                break
        return place[0] + 1, place[1] + 1

    def shown(self, path: Path) -> Path:
        """`path` without what goes below a scalar: those parts are Forkbed's reading of it, not in the file."""
        node = self._root
        for index, part in enumerate(path):
            if isinstance(node, Mapping) and isinstance(part, str):
                if part not in node.entries:
                    return path
                node = node.entries[part]
            elif isinstance(node, Sequence) and isinstance(part, int) and 0 <= part < len(node.items):
                node = node.items[part]
            else:
                return path[:index]
        return path

    def problem(self, path: Path, wrong: str, right: str = "", *, on_key: bool = False) -> LocatedProblem:
        """A problem with the thing at `path`, at its place."""
        line, column = self.locate(path, on_key=on_key)
        return LocatedProblem(line, column, render_path(self.shown(path)), wrong, right)


@dataclass(slots=True)
class Source:
    """A document's tree with the problems that did not keep it from being read."""

    file_name: str
    root: Node
    problems: list[LocatedProblem]

    @property
    def positions(self) -> Positions:
        return Positions(self.root)


def read_yaml(text: str, file_name: str) -> Source:
    """The tree of the one document in `text`. Raises `ManifestInvalid` where it is not even YAML."""
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise _refusal(
            file_name, 0, 0, f"longer than {MAX_TEXT_CHARACTERS // 1024**2} million characters", ""
        )
    forbidden = _FORBIDDEN.search(text)
    if forbidden is not None:
        line, column = _place(text, forbidden.start())
        code = f"{ord(forbidden.group()):04x}"
        half = "\ud800" <= forbidden.group() <= "\udfff"  # of a character: no way to write it
        right = "" if half else f'write it as "\\u{code}" in double quotes'
        raise _refusal(file_name, line, column, f"the character U+{code.upper()} is not allowed here", right)
    builder = _Builder(file_name)
    try:
        root = builder.build(CParser(text).get_event)
    except MarkedYAMLError as error:
        raise _syntax_refusal(file_name, text, error) from None
    except YAMLError as error:
        raise _refusal(file_name, 0, 0, f"cannot be read as YAML: {error}", "") from error
    return Source(file_name, root, builder.problems)


def decode_text(data: bytes, file_name: str) -> str:
    """The text of a file, which must be UTF-8; else `ManifestInvalid` with the place of the first bad byte."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = _place(data[: error.start].decode("utf-8"), error.start)
        wrong = f"the byte 0x{data[error.start]:02X} is not UTF-8"
        raise _refusal(file_name, line, column, wrong, "save the file as UTF-8") from None


@dataclass(slots=True)
class _Open:
    """A collection being read; `key` waits for its value."""

    node: Sequence | Mapping
    anchor: str | None
    key: str | None = None
    key_place: tuple[int, int] = (0, 0)
    merges: list[tuple[Node, tuple[int, int]]] = field(default_factory=list)


class _Builder:
    """Makes the tree of a stream of events, without recursion."""

    def __init__(self, file_name: str) -> None:
        self._file_name = file_name
        self._anchors: dict[str, Node] = {}
        self._stack: list[_Open] = []
        self._root: Node | None = None
        self.problems: list[LocatedProblem] = []

    def build(self, next_event: Callable[[], Any]) -> Node:
        documents = 0
        while True:
            event = next_event()
            kind = type(event)
            if kind is ScalarEvent:
                self._scalar(event)
            elif kind is MappingStartEvent:
                self._open(event, Mapping(event.start_mark.line, event.start_mark.column, {}, {}))
            elif kind is SequenceStartEvent:
                self._open(event, Sequence(event.start_mark.line, event.start_mark.column, []))
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                self._close()
            elif kind is AliasEvent:
                self._alias(event)
            elif kind is DocumentStartEvent:
                documents += 1
                if documents > 1:
                    raise self._refusal(event, "a second document begins here", "keep one document in a file")
            elif kind is StreamEndEvent:
                break
        if self._root is None or (isinstance(self._root, Scalar) and self._root.text is None):
            raise _refusal(self._file_name, 0, 0, "the file is empty", "")
        return self._root

    def _scalar(self, event: Any) -> None:
        self._refuse_tag(event)
        text: str = event.value
        mark = event.start_mark
        if self._stack and isinstance(self._stack[-1].node, Mapping) and self._stack[-1].key is None:
            if event.anchor is not None:
                raise self._refusal(event, "a key cannot have an anchor", "put it before the value")
            self._key(text, plain=event.implicit[0], place=(mark.line, mark.column))
            return
        plain_nothing = event.implicit[0] and text in _NO_VALUE
        # Nothing at all is marked where the parser noticed, perhaps past the end of the file.
        place = self._stack[-1].node if plain_nothing and not text and self._stack else None
        line, column = (mark.line, mark.column) if place is None else (place.line, place.column)
        node = Scalar(line, column, None if plain_nothing else text, _NODE_COST + len(text))
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        self._add(node)

    def _key(self, text: str, *, plain: bool, place: tuple[int, int]) -> None:
        top = self._stack[-1]
        assert isinstance(top.node, Mapping)
        if not text:
            raise _refusal(self._file_name, *place, "a key is missing before the `:`", "")
        if text == "<<" and not plain:
            raise _refusal(self._file_name, *place, 'the key "<<" is not allowed', "")
        top.key, top.key_place = text, place

    def _open(self, event: Any, node: Sequence | Mapping) -> None:
        self._refuse_tag(event)
        self._refuse_as_key(event)
        if len(self._stack) >= MAX_DEPTH:
            raise self._refusal(event, f"nested more than {MAX_DEPTH} deep", "")
        self._stack.append(_Open(node, event.anchor))

    def _close(self) -> None:
        done = self._stack.pop()
        if isinstance(done.node, Mapping):
            for source, place in done.merges:
                self._merge(done.node, source, place)
        if done.anchor is not None:  # only now: an alias to a collection inside itself is unknown
            self._anchors[done.anchor] = done.node
        self._add(done.node)

    def _alias(self, event: Any) -> None:
        self._refuse_as_key(event)
        node = self._anchors.get(event.anchor)
        if node is None:
            raise self._refusal(
                event,
                f"there is no anchor &{event.anchor} before this",
                f"write &{event.anchor} at the original",
            )
        self._add(node)

    def _add(self, node: Node) -> None:
        if not self._stack:
            self._root = node
            return
        top = self._stack[-1]
        parent = top.node
        parent.cost += node.cost
        if parent.cost > MAX_EXPANDED:
            wrong = "too large with all its aliases written out"
            raise _refusal(self._file_name, parent.line, parent.column, wrong, "use fewer aliases")
        if isinstance(parent, Sequence):
            parent.items.append(node)
            return
        key, top.key = top.key, None
        assert key is not None
        if key == "<<":
            top.merges.append((node, top.key_place))
        elif key in parent.entries:
            first = parent.keys[key]
            path = self._path()
            self.problems.append(
                LocatedProblem(
                    top.key_place[0] + 1,
                    top.key_place[1] + 1,
                    render_path((*path, key)),
                    f"the key is here twice, first in line {first[0] + 1}",
                    "remove one of the two",
                )
            )
        else:
            parent.entries[key] = node
            parent.keys[key] = top.key_place

    def _merge(self, target: Mapping, source: Node, place: tuple[int, int]) -> None:
        """`<<: *base` or `<<: [*one, *two]`: take over keys that are not there already, earlier sources first."""
        for base in source.items if isinstance(source, Sequence) else [source]:
            if not isinstance(base, Mapping):
                raise _refusal(self._file_name, *place, "`<<` needs a mapping", "write <<: *anchor")
            for key, node in base.entries.items():
                if key not in target.entries:
                    target.entries[key] = node
                    target.keys[key] = base.keys[key]

    def _path(self) -> Path:
        """The path of the innermost open collection."""
        path: list[str | int] = []
        for entry in self._stack[:-1]:
            if isinstance(entry.node, Sequence):
                path.append(len(entry.node.items))
            elif entry.key is not None:
                path.append(entry.key)
        return tuple(path)

    def _refuse_tag(self, event: Any) -> None:
        if event.tag is not None:
            raise self._refusal(event, "tags such as !name are not used here", "remove it")

    def _refuse_as_key(self, event: Any) -> None:
        if self._stack and isinstance(self._stack[-1].node, Mapping) and self._stack[-1].key is None:
            raise self._refusal(event, "a key must be plain text", "")

    def _refusal(self, event: Any, wrong: str, right: str) -> ManifestInvalid:
        mark = event.start_mark
        return _refusal(self._file_name, mark.line, mark.column, wrong, right)


def _refusal(file_name: str, line: int, column: int, wrong: str, right: str) -> ManifestInvalid:
    """A single problem at a place counted from 0."""
    return ManifestInvalid(file_name, [LocatedProblem(line + 1, column + 1, "", wrong, right)])


def _place(text: str, index: int) -> tuple[int, int]:
    """Line and column, from 0, of the character at `index`."""
    before = text[:index]
    line_start = max(before.rfind("\n"), before.rfind("\r")) + 1
    return len(re.findall("\r\n|\r|\n", before)), len(before) - line_start


_PLAIN_WORDS: dict[str, tuple[str, str]] = {
    "mapping values are not allowed in this context": (
        "a `:` is not expected here",
        "check the indentation, or put the value in quotes",
    ),
    "found unexpected ':'": ("a `:` without a space after it inside […] or {…}", "add a space, or quotes"),
    "did not find expected key": ("neither a key nor the end of the block", "check the indentation"),
    "did not find expected '-' indicator": ("a list entry should begin here", "check the indentation"),
    "could not find expected ':'": ("a key without `:`", "write `key: value`"),
    "did not find expected ',' or ']'": ("this list is not closed", "a `,` or a `]` is missing"),
    "did not find expected ',' or '}'": ("this mapping is not closed", "a `,` or a `}` is missing"),
    "found unexpected end of stream": ("the quotes are never closed", "add the closing quote"),
    "found unknown escape character": ("an unknown escape after `\\`", "use single quotes, or write `\\\\`"),
    "block sequence entries are not allowed in this context": (
        "a list cannot begin in this line",
        "begin it in the next line, indented",
    ),
}


def _syntax_refusal(file_name: str, text: str, error: MarkedYAMLError) -> ManifestInvalid:
    """The parser's complaint in plain words, at the place where something can be done about it."""
    mark = error.problem_mark or error.context_mark
    problem = str(error.problem)
    index = 0 if mark is None else mark.index
    if error.context_mark is not None and (index >= len(text.rstrip()) or "not closed" in _words(problem)[0]):
        mark = error.context_mark  # it went on to the end: what was opened says more
    wrong, right = _words(problem)
    if problem == "found character that cannot start any token" and index < len(text):
        if text[index] == "\t":
            wrong, right = "a tab cannot indent", "use spaces"
        else:
            wrong, right = f"a value cannot begin with `{text[index]}`", "put the value in quotes"
    # A mark may lie past the end of the file, which no editor finds.
    end = len(text.rstrip())
    line, column = _place(text, 0 if mark is None else min(mark.index, end))
    return _refusal(file_name, line, column, wrong, right)


def _words(problem: str) -> tuple[str, str]:
    return _PLAIN_WORDS.get(problem, (f"not YAML: {problem}", "check the indentation and the quotes"))
