"""The image recipe: its shape, and from its text and files to a `RecipeSpec`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from forkbed.base.errors import OperationalError, Problem
from forkbed.config.document import load_document, locate
from forkbed.config.fields import (
    FileMode,
    FilledText,
    FormatVersion,
    GuestPath,
    Line,
    Name,
    Owner,
    SizeBytes,
    Strict,
    Text,
    refuse,
    text_of,
)
from forkbed.config.problems import ManifestInvalid
from forkbed.core.images.bundle import RecipeBundle
from forkbed.core.images.recipe import BUILT_IN_BASES, KernelFlavour, RecipeFile, RecipeSpec
from forkbed.core.images.reference import parse_reference

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+:~-]+)?")


def _package(value: object) -> str:
    text = text_of(value)
    if not _PACKAGE.fullmatch(text):
        raise refuse(
            f"`{text}` cannot be a Debian package", "its name, such as `postgresql`, or NAME=VERSION"
        )
    return text


def _base(value: object) -> str:
    text = text_of(value)
    if text not in BUILT_IN_BASES:
        try:
            parse_reference(text)
        except OperationalError as error:
            raise refuse(error.brief, f"{', '.join(BUILT_IN_BASES)} or an image's NAME:CHANNEL") from None
    return text


Package = Annotated[str, BeforeValidator(_package)]
Base = Annotated[str, BeforeValidator(_base)]


class RecipeFileEntry(Strict):
    """A file of the image: from the recipe's directory, or written here."""

    path: GuestPath = Field(description="Where it goes in the image.")
    source: Line | None = Field(None, description="A local file, relative to the recipe.")
    content: Text | None = Field(None, description="The text itself.")
    mode: FileMode = Field(0o644, description="Permissions, octal.")
    owner: Owner = Field("root:root", description="`user` or `user:group` of the image.")

    @model_validator(mode="after")
    def _one_origin(self) -> RecipeFileEntry:
        if (self.source is None) == (self.content is None):
            raise refuse("a file needs exactly one of `source` and `content`", "write one of them")
        return self


class RecipeDocument(Strict):
    """A recipe file."""

    version: FormatVersion = Field(description="Version of this format.")
    name: Name = Field(description="The image is named NAME:latest when it is built.")
    base: Base = Field(description="`debian-12`, `micro`, or another image.")
    packages: tuple[Package, ...] = Field((), description="Debian packages, without what they recommend.")
    files: tuple[RecipeFileEntry, ...] = Field((), description="Files, placed after the packages.")
    commands: tuple[FilledText, ...] = Field((), description="Shell commands, run in the image at the end.")
    size: SizeBytes | None = Field(None, description="Size of the disk, in whole MiB.")
    kernel: KernelFlavour | None = Field(None, description="`cloud` (small) or `generic` (every driver).")


def parse_recipe(bundle: RecipeBundle) -> RecipeSpec:
    """The recipe that a bundle holds. Raises `ManifestInvalid` with all problems at their places."""
    document, positions = load_document(bundle.text, bundle.file_name, RecipeDocument)
    problems = []
    files = []
    for index, entry in enumerate(document.files):
        content = (entry.content or "").encode()
        if entry.source is not None:
            if entry.source not in bundle.files:
                problems.append(
                    Problem(
                        ("files", index, "source"),
                        f"there is no file `{entry.source}` that can be read",
                        "correct the path",
                    )
                )
                continue
            content = bundle.files[entry.source]
        files.append(RecipeFile(entry.path, content, entry.mode, entry.owner))
    if document.kernel is not None and document.base not in BUILT_IN_BASES:
        problems.append(
            Problem(
                ("kernel",),
                "the kernel is that of the base, which is an image",
                f"choose it where the base is {' or '.join(BUILT_IN_BASES)}",
            )
        )
    if document.base == "micro" and document.packages:
        problems.append(
            Problem(("packages",), "micro has no package manager", "take debian-12, or add files instead")
        )
    if problems:
        raise ManifestInvalid(bundle.file_name, (locate(positions, problem) for problem in problems))
    return RecipeSpec(
        name=document.name,
        base=document.base,
        packages=document.packages,
        files=tuple(files),
        commands=document.commands,
        size_bytes=document.size,
        kernel=document.kernel,
    )
