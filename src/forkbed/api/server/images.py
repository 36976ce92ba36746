"""Routes of images: list, build, import, export, tag, remove. Files are streamed both ways."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from forkbed.api.bodies import BundleBody, TagBody, bundle_of
from forkbed.api.contract import OCTETS, ExportFormat
from forkbed.api.server.answers import READ_PROBLEMS, WRITE_PROBLEMS, Responses
from forkbed.api.server.context import Api, Shared
from forkbed.api.server.transfers import receive_file, reserve_path, send_and_remove
from forkbed.api.server.writes import Write, accepted
from forkbed.core.operations.records import Operation
from forkbed.ports.images import ImageView, RecipeBundle, TagMove

router = APIRouter(tags=["images"])
ImageRef = Annotated[str, Path(description="A name with its channel (`boss:dev`), a name, or an id.")]
_FILE: dict[str, object] = {"schema": {"type": "string", "format": "binary"}}
_DOWNLOAD: Responses = {200: {"description": "The image's file", "content": {OCTETS: _FILE}}}


@router.get("/images", summary="List images", responses=READ_PROBLEMS)
def images(api: Api) -> Sequence[ImageView]:
    """All images of this installation."""
    return api.images()


@router.post("/images/builds", status_code=202, summary="Build an image", responses=WRITE_PROBLEMS)
def build(body: BundleBody, api: Api, request: Write, response: Response) -> Operation:
    """Build an image from a recipe. A recipe has no variables and no secrets."""
    bundle = bundle_of(body)
    recipe = RecipeBundle(bundle.file_name, bundle.text, bundle.files)
    return accepted(api.image_build(recipe, request), response)


@router.post(
    "/images/imports",
    status_code=202,
    summary="Import an image file",
    responses=WRITE_PROBLEMS,
    openapi_extra={"requestBody": {"required": True, "content": {OCTETS: _FILE}}},
)
async def import_image(
    http: HttpRequest,
    name: Annotated[str, Query(min_length=1, max_length=200, description="What it is to be called.")],
    api: Api,
    shared: Shared,
    request: Write,
    response: Response,
) -> Operation:
    """Take the body as an image file. It is inspected before anything uses it."""
    told = http.headers.get("content-length", "")
    path = await receive_file(http.stream(), shared, expected_bytes=int(told) if told.isdigit() else None)
    try:
        operation = await run_in_threadpool(api.image_import, path, name, request)
    except BaseException:
        path.unlink(missing_ok=True)  # nobody took it over
        raise
    return accepted(operation, response)


@router.get("/images/{ref}", summary="Show an image", responses=READ_PROBLEMS)
def image(ref: ImageRef, api: Api) -> ImageView:
    """What it is and where it came from."""
    return api.image(ref)


@router.delete("/images/{ref}", status_code=204, summary="Remove an image", responses=WRITE_PROBLEMS)
def remove(ref: ImageRef, api: Api, request: Write) -> None:
    """Refused while a machine uses it."""
    api.image_remove(ref, request)


@router.post("/images/{ref}/tags", summary="Point a name to an image", responses=WRITE_PROBLEMS)
def tag(ref: ImageRef, body: TagBody, api: Api, request: Write) -> TagMove:
    """Move a channel, or make one. What it pointed to before is kept in its history."""
    return api.image_tag(ref, body.name, request)


@router.get("/images/{ref}/tags", summary="List what a name pointed to", responses=READ_PROBLEMS)
def tag_history(ref: ImageRef, api: Api) -> Sequence[TagMove]:
    """Every image that the name has pointed to, the oldest first."""
    return api.image_history(ref)


@router.get(
    "/images/{ref}/content",
    summary="Export an image",
    response_class=StreamingResponse,
    responses={**READ_PROBLEMS, **_DOWNLOAD},
)
async def export(
    ref: ImageRef,
    api: Api,
    shared: Shared,
    format: Annotated[ExportFormat, Query(description="The form of the file.")] = ExportFormat.QCOW2,  # noqa: A002
) -> StreamingResponse:
    """The image as one file that depends on no other."""
    path = await run_in_threadpool(reserve_path, shared, f".{format}")
    stream: AsyncIterator[bytes]
    try:
        await shared.threads.run(partial(api.image_export, ref, format, path))
        size_bytes = path.stat().st_size
        stream = send_and_remove(path, shared)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return StreamingResponse(stream, media_type=OCTETS, headers={"Content-Length": str(size_bytes)})
