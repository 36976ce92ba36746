"""From YAML text to a checked model: every problem at once, each at its place in the file.

Serves the manifest, the image recipe and the steps of an upgrade: `load_document(text, file_name, Model)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from forkbed.base.errors import Problem
from forkbed.base.words import quoted, suggest
from forkbed.config.fields import REFUSED
from forkbed.config.problems import LocatedProblem, ManifestInvalid, Path
from forkbed.config.variables import NO_VALUE, to_data
from forkbed.config.yamlsource import Positions, read_yaml

Model = TypeVar("Model", bound=BaseModel)


def load_document(text: str, file_name: str, model: type[Model]) -> tuple[Model, Positions]:
    """The document in `text` as a `model`, with the places of its parts. Raises `ManifestInvalid`."""
    source = read_yaml(text, file_name)
    positions = source.positions
    checked = check_data(to_data(source.root).value, model)
    problems = [locate(positions, problem) for problem in checked] if isinstance(checked, list) else []
    if source.problems or isinstance(checked, list):
        raise ManifestInvalid(file_name, source.problems + problems)
    return checked, positions


def locate(positions: Positions, problem: Problem) -> LocatedProblem:
    """The problem at its place in the file."""
    return positions.problem(problem.path, problem.wrong, problem.right, on_key=problem.on_key)


def check_data(data: Any, model: type[Model]) -> Model | list[Problem]:
    """`data` as a `model`, or all that keeps it from being one."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        return [_problem(dict(detail), model) for detail in error.errors(include_url=False)]


def _problem(detail: Mapping[str, Any], model: type[BaseModel]) -> Problem:
    """One of pydantic's complaints in plain words."""
    path: Path = detail["loc"]
    if path and path[-1] == "[key]":
        return _worded(detail, path[:-1], model, on_key=True)
    return _worded(detail, path, model, on_key=False)


def _worded(detail: Mapping[str, Any], path: Path, model: type[BaseModel], *, on_key: bool) -> Problem:
    context = detail.get("ctx", {})
    value = detail["input"]
    match detail["type"]:
        case kind if kind == REFUSED:
            return Problem(path, context["wrong"], context["right"], on_key)
        case "missing":
            return Problem(path, "is missing", f"add `{path[-1]}:`")
        case "extra_forbidden":
            known = _keys(model, path[:-1])
            return Problem(path, "unknown key", suggest(str(path[-1]), known), on_key=True)
        case "enum" | "literal_error":
            expected = _choices(context["expected"])
            wrong = f"{quoted(value)} is not known here" if isinstance(value, str) else _not_here(value)
            return Problem(path, wrong, suggest(str(value), expected))
        case "dict_type" | "model_type" | "model_attributes_type":
            return Problem(path, _not_here(value), "a mapping of keys and values is wanted")
        case "list_type" | "tuple_type":
            return Problem(path, _not_here(value), "a list is wanted: `- …` lines, or […]")
        case "string_type":
            return Problem(path, _not_here(value), "text is wanted")
        case _:
            return Problem(path, str(detail["msg"]))


def _not_here(value: object) -> str:
    if value is NO_VALUE:
        return "there is no value"
    if isinstance(value, dict):
        return "a mapping cannot be here"
    if isinstance(value, list):
        return "a list cannot be here"
    return f"{quoted(str(value))} cannot be here"


def _choices(expected: str) -> list[str]:
    """The words in pydantic's "'a', 'b' or 'c'"."""
    return [word for index, word in enumerate(expected.split("'")) if index % 2]


def _keys(model: type[BaseModel], path: Path) -> list[str]:
    """The keys that may stand at `path` of a document of that model."""
    found: Any = model
    for part in path:
        inner = _model_or_container(found)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            fields = {info.alias or name: info.annotation for name, info in inner.model_fields.items()}
            found = fields.get(str(part))
        else:
            found = get_args(inner)[1 if get_origin(inner) is dict else 0] if get_args(inner) else None
    inner = _model_or_container(found)
    if isinstance(inner, type) and issubclass(inner, BaseModel):
        return [info.alias or name for name, info in inner.model_fields.items()]
    return []


def _model_or_container(annotation: Any) -> Any:
    """The part of an annotation that has keys: `X` of `X | None` and of `Annotated[X, …]`."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, UnionType):
            annotation = next(arm for arm in get_args(annotation) if arm is not type(None))
        else:
            return annotation
