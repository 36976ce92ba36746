"""How failures become problem documents, and how every route says so in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException

from forkbed.api.problems import PROBLEM_MEDIA_TYPE, ProblemDocument, error_of_status, problem_json
from forkbed.base.errors import Kind, OperationalError

_REFERENCE = "#/components/schemas/{model}"
_DESCRIPTIONS = {
    400: "The request is malformed",
    403: "The peer's account may not use this Forkbed",
    404: "What was named does not exist",
    409: "It contradicts the present state",
    411: "The body's length is missing",
    412: "Refused because data would be lost",
    413: "The body is too large",
    422: "What was asked cannot be right",
    423: "Somebody else is changing it right now",
    500: "A tool or the host failed",
    503: "There was no answer from what is needed for it",
}
Responses = dict[int | str, dict[str, Any]]


def problems(*statuses: int) -> Responses:
    """The problem responses of a route: `statuses`, and those that every route may give."""
    content = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": _REFERENCE.format(model="ProblemDocument")}}}
    return {
        status: {"description": _DESCRIPTIONS[status], "content": content}
        for status in sorted({403, 422, 500, 503, *statuses})
    }


WRITE_PROBLEMS = problems(400, 404, 409, 411, 412, 413, 423)
READ_PROBLEMS = problems(404)


def problem_response(error: OperationalError, status: int | None = None) -> JSONResponse:
    """The answer that tells of `error`."""
    document = problem_json(error, status)
    return JSONResponse(document, status_code=document["status"], media_type=PROBLEM_MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make every failure of `app` a problem document, in the answers and in the OpenAPI document."""

    @app.exception_handler(OperationalError)
    def operational(_request: Request, error: OperationalError) -> JSONResponse:
        return problem_response(error)

    @app.exception_handler(RequestValidationError)
    def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        lines = tuple(f"{_place(item['loc'])}: {item['msg']}" for item in error.errors())
        return problem_response(
            OperationalError(
                Kind.INVALID,
                "the request",
                "it does not have the form that /v1/openapi.json describes",
                "correct what the details name",
                details=lines,
            )
        )

    @app.exception_handler(HTTPException)
    def other(request: Request, error: HTTPException) -> JSONResponse:
        subject = f"{request.method} {request.url.path}"
        answer = problem_response(
            error_of_status(error.status_code, subject, str(error.detail)), error.status_code
        )
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    def bug(request: Request, error: Exception) -> JSONResponse:
        return problem_response(
            OperationalError(
                Kind.FAULT,
                f"{request.method} {request.url.path}",
                f"this is an error in Forkbed: {type(error).__name__}: {error}",
                "the traceback is in the server's log; please report it",
            )
        )

    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            schemas = document["components"]["schemas"]
            schema = TypeAdapter(ProblemDocument).json_schema(ref_template=_REFERENCE)
            schemas.update(schema.pop("$defs"))
            schemas["ProblemDocument"] = schema
            for operations in document["paths"].values():
                for operation in operations.values():
                    for parameter in operation.get("parameters", ()):
                        parameter["schema"] = _not_null(parameter["schema"])
        return cast(dict[str, Any], app.openapi_schema)

    app.openapi = openapi  # type: ignore[method-assign]


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is left out or has a value: "null" would be the text `null`."""
    variants = schema.get("anyOf", ())
    if {"type": "null"} not in variants:
        return schema
    (value,) = (variant for variant in variants if variant != {"type": "null"})
    return {**{name: item for name, item in schema.items() if name != "anyOf"}, **value}


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def with_success(responses: Responses, status: int, description: Mapping[str, Any]) -> Responses:
    """`responses` with one more."""
    return {**responses, status: dict(description)}
