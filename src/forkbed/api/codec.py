"""Plain dataclasses to JSON values and back, with the standard library only.

The client reads answers with it, so that starting a command loads neither pydantic nor FastAPI; the server's
answers have the same shape because both follow the same dataclasses. Promises: `decode(T, encode(x)) == x` for
a dataclass `T` of numbers, text, enumerations, optional values, sequences, mappings and further dataclasses.
Unknown keys are passed over, so an older client reads a newer server's answers.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, NewType, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
Decoder = Callable[[Any], Any]


def encode(value: object) -> Any:
    """`value` as what `json.dumps` takes. Sets become sorted lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: encode(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(encode(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


def decode(kind: type[T], data: object) -> T:
    """A value of type `kind` from JSON values. Raises `ValueError` if the shape is another."""
    try:
        return cast(T, _decoder(cast(Any, kind))(data))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a {kind.__name__}: {error!r}") from error


@cache
def _decoder(kind: Any) -> Decoder:
    if isinstance(kind, NewType):
        return _decoder(kind.__supertype__)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if origin is not None:
        return _generic(origin, arguments)
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind
    if kind is float:
        return float
    return lambda data: data


def _union(arguments: tuple[Any, ...]) -> Decoder:
    (inner,) = (_decoder(item) for item in arguments if item is not types.NoneType)
    return lambda data: None if data is None else inner(data)


def _generic(origin: Any, arguments: tuple[Any, ...]) -> Decoder:
    if issubclass(origin, Mapping):
        item = _decoder(arguments[1])
        return lambda data: {key: item(value) for key, value in data.items()}
    if origin is tuple and arguments[-1] is not Ellipsis:
        items = [_decoder(argument) for argument in arguments]
        return lambda data: tuple(read(value) for read, value in zip(items, data, strict=True))
    if issubclass(origin, Collection):
        item = _decoder(arguments[0])
        build: Callable[[Any], Any] = frozenset if issubclass(origin, (set, frozenset)) else tuple
        if origin is list:
            build = list
        return lambda data: build(item(value) for value in _sequence(data))
    raise TypeError(f"no JSON form of {origin!r}")


def _sequence(data: object) -> Sequence[Any]:
    if not isinstance(data, (list, tuple)):
        raise TypeError(f"not a list: {data!r}")
    return data


def _dataclass(kind: type) -> Decoder:
    required = [
        item.name for item in fields(kind) if item.default is MISSING and item.default_factory is MISSING
    ]

    @cache
    def field_readers() -> dict[str, Decoder]:
        # When the first value is read, not now: a field may be of the very class, as in a tree.
        hints = get_type_hints(kind)
        return {item.name: _decoder(hints[item.name]) for item in fields(kind)}

    def read(data: Any) -> Any:
        readers = field_readers()
        missing = [name for name in required if name not in data]
        if missing:
            raise KeyError(*missing)
        return kind(**{name: reader(data[name]) for name, reader in readers.items() if name in data})

    return read
