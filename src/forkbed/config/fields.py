"""The kinds of values that documents hold, read from text: sizes, times, numbers, names, paths, modes.

Each says what is wrong with a value and what would be right, and what it looks like in a JSON Schema. Shared by
the manifest, the image recipe and the steps of an upgrade.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from forkbed.base.ids import is_name
from forkbed.base.units import parse_duration_s, parse_size_bytes
from forkbed.base.words import quoted
from forkbed.config.variables import NO_VALUE

REFUSED = "forkbed"
"""Type of the errors that `refuse` makes; `ctx` holds `wrong` and `right`."""

_VARIABLE_SCHEMA = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"}


def refuse(wrong: str, right: str = "") -> PydanticCustomError:
    """The error to raise in a validator: what is wrong, what would be right."""
    return PydanticCustomError(REFUSED, "{wrong}", {"wrong": wrong, "right": right})


def text_of(value: object) -> str:
    """The text of a scalar; anything else is refused."""
    if isinstance(value, str):
        return value
    if value is NO_VALUE:
        raise refuse("there is no value", "give it one, or remove the key")
    if isinstance(value, (dict, list)):
        what = "a mapping" if isinstance(value, dict) else "a list"
        raise refuse(f"{what} cannot be here", "write a single value")
    return str(value)


def _size(value: object) -> int:
    if isinstance(value, int):
        return value
    text = text_of(value)
    try:
        return parse_size_bytes(text)
    except ValueError as error:
        raise refuse(f"{quoted(text)} is not a size", str(error)) from None


def _duration(value: object) -> float:
    if isinstance(value, float):
        return value
    text = text_of(value)
    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise refuse(f"{quoted(text)} is not a time", str(error)) from None


def _whole(low: int, high: int, what: str = "a whole number") -> Callable[[object], int]:
    def read(value: object) -> int:
        text = text_of(value)
        if not re.fullmatch(r"0|[1-9][0-9]{0,9}", text) or not low <= int(text) <= high:
            raise refuse(f"{quoted(text)} is not {what}", f"a number from {low} to {high}")
        return int(text)

    return read


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = text_of(value)
    if text not in ("true", "false"):
        raise refuse(f"{quoted(text)} is neither true nor false", "write true or false")
    return text == "true"


def _mode(value: object) -> int:
    text = text_of(value)
    if not re.fullmatch(r"0?[0-7]{3,4}", text):
        raise refuse(f"{quoted(text)} is not a file mode", 'octal digits, such as "0644"')
    return int(text, 8)


def _owner(value: object) -> str:
    text = text_of(value)
    name = r"([a-z_][a-z0-9_-]{0,31}|[0-9]{1,9})"
    if not re.fullmatch(f"{name}(:{name})?", text):
        raise refuse(
            f"{quoted(text)} is not an owner", "`user` or `user:group`, such as `root:root`, or their numbers"
        )
    return text if ":" in text else f"{text}:{text}"


def _guest_path(value: object) -> str:
    text = text_of(value)
    parts = text.split("/")
    if not text.startswith("/") or text == "/" or not text.isprintable():
        raise refuse(f"{quoted(text)} is not an absolute path", "begin it with `/`, such as /etc/app.conf")
    if "" in parts[1:] or "." in parts or ".." in parts:
        raise refuse(f"{quoted(text)} is not a plain path", "leave out `.`, `..`, `//` and a `/` at the end")
    return text


def _name(value: object) -> str:
    text = text_of(value)
    if not is_name(text):
        right = "small letters, digits and `-`, beginning with a letter, at most 63, such as `web-1`"
        raise refuse(f"{quoted(text)} cannot be a name", right)
    return text


def _line(value: object) -> str:
    text = text_of(value)
    if not text.strip() or not text.isprintable():
        raise refuse("empty, or more than one line" if text else "empty", "write it in one line")
    return text


def _filled(value: object) -> str:
    text = text_of(value)
    if not text.strip():
        raise refuse("empty", "write something, or remove it")
    if "\0" in text:
        raise refuse("it holds a NUL character", "remove it")
    return text


def _version(value: object) -> object:
    if text_of(value) != "1":
        raise refuse(f"{quoted(text_of(value))} is not a version that is known here", "write `version: 1`")
    return 1


def _schema(**schema: Any) -> WithJsonSchema:
    return WithJsonSchema(schema)


def _or_variable(**schema: Any) -> WithJsonSchema:
    """For values that are not text in JSON Schema's eyes: a variable may stand there too."""
    return WithJsonSchema({"anyOf": [schema, _VARIABLE_SCHEMA]})


_SIZE_PATTERN = r"^\s*\d+(\.\d+)?\s*([kKmMgGtT]([iI]?[bB])?|[bB])\s*$"
_TIME_PATTERN = r"^\s*\d+(\.\d+)?\s*(ms|s|m|min|h|d|w)\s*$"
_MODE_SCHEMA = {"anyOf": [{"type": "string", "pattern": "^0?[0-7]{3,4}$"}, {"type": "integer"}]}

Text = Annotated[str, BeforeValidator(text_of), _schema(type=["string", "number", "boolean"])]
FilledText = Annotated[str, BeforeValidator(_filled), _schema(type="string", minLength=1)]
Line = Annotated[str, BeforeValidator(_line), _schema(type="string", minLength=1, pattern=r"^[^\n\r]+$")]
Name = Annotated[
    str, BeforeValidator(_name), _schema(type="string", pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$|\$\{")
]
SizeBytes = Annotated[
    int,
    BeforeValidator(_size),
    _or_variable(type="string", pattern=_SIZE_PATTERN, examples=["512MiB", "2GiB"]),
]
Seconds = Annotated[
    float,
    BeforeValidator(_duration),
    _or_variable(type="string", pattern=_TIME_PATTERN, examples=["30s", "5m"]),
]
Flag = Annotated[bool, BeforeValidator(_flag), _or_variable(type="boolean")]
FileMode = Annotated[int, BeforeValidator(_mode), WithJsonSchema({**_MODE_SCHEMA, "examples": ["0644"]})]
Owner = Annotated[str, BeforeValidator(_owner), _schema(type="string", examples=["root:root", "www-data"])]
GuestPath = Annotated[
    str, BeforeValidator(_guest_path), _schema(type="string", pattern="^(/|\\$)", examples=["/etc/app.conf"])
]
Port = Annotated[
    int, BeforeValidator(_whole(1, 65535, "a port")), _or_variable(type="integer", minimum=1, maximum=65535)
]
Count = Annotated[int, BeforeValidator(_whole(0, 999_999_999)), _or_variable(type="integer", minimum=0)]
HttpStatus = Annotated[
    int,
    BeforeValidator(_whole(100, 599, "an HTTP status")),
    _or_variable(type="integer", minimum=100, maximum=599),
]
ExitStatus = Annotated[
    int,
    BeforeValidator(_whole(0, 255, "an exit status")),
    _or_variable(type="integer", minimum=0, maximum=255),
]
FormatVersion = Annotated[Literal[1], BeforeValidator(_version), WithJsonSchema({"enum": [1, "1"]})]


class Strict(BaseModel):
    """A part of a document: unknown keys are errors, nothing is changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


class Shorthand(Strict):
    """A part that can also be written as a single value, which `from_text` spells out."""

    shorthand_schema: ClassVar[Mapping[str, Any]] = {"type": "string"}

    @classmethod
    @abstractmethod
    def from_text(cls, text: str) -> dict[str, object]:
        """The mapping for which the text stands."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, value: object) -> object:
        return cls.from_text(value) if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        full = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [dict(cls.shorthand_schema), full]}
