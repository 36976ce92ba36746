"""`image build|import|export|list|show|remove|tag|history`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from secrets import token_hex
from typing import Annotated

from cyclopts import App, Parameter

from forkbed.api.contract import ExportFormat
from forkbed.base.errors import Kind, OperationalError
from forkbed.base.units import format_size
from forkbed.cli.invocation import current
from forkbed.cli.output import emit, say, styled, table, when
from forkbed.cli.targets import place
from forkbed.cli.waiting import finish

app = App(name="image", help="Build, import, export, list, tag and remove images.")
Image = Annotated[str, Parameter(help="NAME, NAME:CHANNEL, or the beginning of an id.")]
NoWait = Annotated[bool, Parameter(name="--no-wait", help="Only start the operation and print its id.")]


@app.command
def build(recipe: str, /, *, no_wait: NoWait = False) -> int:
    """Build an image from a recipe, or take the earlier result of the same recipe.

    ```
    forkbed image build examples/boss-ops/boss.yaml
    ```
    """
    from forkbed.cli.bundling import read_recipe  # here: it reads YAML, which the other commands need not

    bundle = read_recipe(recipe)
    with current().client() as client:
        return finish(client, client.image_build(bundle), wait=not no_wait)


@app.command(name="import")
def import_file(
    file: Path,
    /,
    *,
    name: Annotated[
        str, Parameter(name=["--name", "-n"], help="What it is to be called: NAME or NAME:CHANNEL.")
    ],
    no_wait: NoWait = False,
) -> int:
    """Import a disk file (qcow2, raw and others). It is inspected and converted; one that names other files
    is refused.

    ```
    forkbed image import debian-12.qcow2 --name debian-12
    ```
    """
    try:
        with file.open("rb") as source, current().client() as client:
            operation = client.image_import(source, name, size_bytes=os.fstat(source.fileno()).st_size)
            return finish(client, operation, wait=not no_wait)
    except FileNotFoundError:
        raise OperationalError(
            Kind.NOT_FOUND, str(file), "there is no such file", "give the path of a disk file"
        ) from None
    except OSError as error:
        raise OperationalError(Kind.INVALID, str(file), f"cannot be read: {error.strerror}") from error


@app.command
def export(
    image: Image,
    target: Annotated[
        str, Parameter(help="The file to write; `-` is standard output.", allow_leading_hyphen=True)
    ],
    /,
    *,
    form: Annotated[
        ExportFormat, Parameter(name="--format", help="The form of the file.")
    ] = ExportFormat.QCOW2,
) -> None:
    """Write an image to one file that depends on no other.

    ```
    forkbed image export boss:production boss.qcow2
    forkbed image export boss - --format raw | dd of=/dev/sdx bs=1M
    ```
    """
    with current().client() as client:
        if place(target) == "-":
            client.image_export(image, sys.stdout.buffer, form)
            return
        path = Path(target)
        partial = path.with_name(f".{path.name}.{token_hex(4)}.part")  # a half file never bears the name
        try:
            with partial.open("xb") as file:
                size_bytes = client.image_export(image, file, form)
            partial.replace(path)
        except OSError as error:
            raise OperationalError(Kind.FAULT, target, f"cannot be written: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)
    if not emit({"image": image, "file": target, "size_bytes": size_bytes}):
        say(f"{image}: {format_size(size_bytes)} written to {target}")


@app.command(name="list")
@app.default
def list_images() -> None:
    """List images, the newest first.

    ```
    forkbed image list
    ```
    """
    with current().client() as client:
        found = client.images()
    if emit(found):
        return
    rows = [
        (
            item.id[:12],
            ", ".join(item.names),
            format_size(item.size_bytes),
            format_size(item.stored_bytes),
            when(item.created_at),
        )
        for item in found
    ]
    headings = ("IMAGE", "NAMES", "DISK", "STORED", "CREATED")
    table(headings, rows, empty="there are no images; build one: forkbed image build RECIPE")


@app.command
def show(image: Image, /) -> None:
    """Show what an image is and where it came from.

    ```
    forkbed image show boss:production
    ```
    """
    with current().client() as client:
        found = client.image(image)
    if emit(found):
        return
    print(f"{styled('image', 'bold')} {found.id}")
    print(f"names: {', '.join(found.names) or 'none'}")
    print(f"disk: {format_size(found.size_bytes)}, stored in {format_size(found.stored_bytes)}")
    print(f"created: {when(found.created_at)}")
    for name, value in found.provenance.items():
        print(f"{name}: {value}")


@app.command
def remove(image: Image, /) -> None:
    """Remove an image with its names. Refused while a machine uses it.

    ```
    forkbed image remove boss:dev
    ```
    """
    with current().client() as client:
        client.image_remove(image)
    if not emit({"removed": image}):
        say(f"image {image} is removed")


@app.command
def tag(image: Image, name: Annotated[str, Parameter(help="NAME:CHANNEL.")], /) -> None:
    """Point a channel of a name to an image. What it pointed to before is kept in its history.

    ```
    forkbed image tag boss:dev boss:production
    ```
    """
    with current().client() as client:
        move = client.image_tag(image, name)
    if not emit(move):
        before = f" (before: {move.before[:12]})" if move.before else ""
        say(f"{move.name} is now {move.image_id[:12]}{before}")


@app.command
def history(name: Annotated[str, Parameter(help="NAME or NAME:CHANNEL.")], /) -> None:
    """List what a name pointed to, the oldest first.

    ```
    forkbed image history boss:production
    ```
    """
    with current().client() as client:
        found = client.image_history(name)
    if emit(found):
        return
    rows = [(when(item.at), item.name, item.image_id[:12], item.before[:12], item.account) for item in found]
    table(("WHEN", "NAME", "IMAGE", "BEFORE", "BY"), rows, empty=f"{name} never pointed to an image")
