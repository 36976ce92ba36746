"""Read a manifest, a recipe or steps with the local files they name, to hand them to the server by value."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.units import format_size
from forkbed.cli.targets import place
from forkbed.config.local_files import local_files, recipe_files, steps_files
from forkbed.core.rehearsals.bundle import StepsBundle
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.ports.images import RecipeBundle

_LIMIT_BYTES = 150 * 1024 * 1024  # as base64 it has to fit the server's limit for a request


def read_bundle(file: str, settings: Iterable[str]) -> ManifestBundle:
    """The manifest in `file` (`-`: standard input) with its files; `settings` are `name=value`.

    Paths in it are relative to its directory. A file that cannot be read is left out: the server says at which
    line it is wanted, together with everything else that is wrong.
    """
    variables = dict(map(_setting, settings))
    text = read_text(place(file))
    directory = Path.cwd() if file == "-" else Path(file).parent
    wanted = local_files(text, file, variables)
    bundle = ManifestBundle(
        file_name=file,
        text=text,
        files=read_files(directory, wanted.files),
        secrets=read_files(directory, wanted.secrets),
        variables=variables,
    )
    remedy = "put large files into the image, or `forkbed copy` them later"
    _check_size(file, (*bundle.files.values(), *bundle.secrets.values()), remedy)
    return bundle


def read_recipe(file: str) -> RecipeBundle:
    """The image recipe in `file` with the files it names, relative to its directory."""
    text = read_text(file)
    return RecipeBundle(file, text, read_files(Path(file).parent, recipe_files(text, file)))


def read_steps(file: str) -> StepsBundle:
    """The steps of an upgrade in `file` (`-`: standard input) with the files they push, relative to its directory."""
    text = read_text(place(file))
    directory = Path.cwd() if file == "-" else Path(file).parent
    bundle = StepsBundle(file, text, read_files(directory, steps_files(text, file)))
    remedy = "`forkbed copy` large files into the system first: its forks have them"
    _check_size(file, bundle.files.values(), remedy)
    return bundle


def read_text(file: str) -> str:
    """The text of a file, or of standard input for `-`. Raises NOT_FOUND or INVALID."""
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise OperationalError(
            Kind.NOT_FOUND, file, "there is no such file", "give the path of a YAML file"
        ) from None
    except OSError as error:
        raise OperationalError(Kind.INVALID, file, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise OperationalError(
            Kind.INVALID, file, "is no text in UTF-8", "give the path of a YAML file"
        ) from error


def read_files(directory: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The bytes of the files that can be read, by their path as written."""
    found = {}
    for name in sorted(names):
        with suppress(OSError):
            found[name] = (directory / name).read_bytes()
    return found


def _check_size(file: str, contents: Iterable[bytes], remedy: str) -> None:
    size_bytes = sum(map(len, contents))
    if size_bytes > _LIMIT_BYTES:
        raise OperationalError(
            Kind.INVALID,
            file,
            f"its files have {format_size(size_bytes)}, more than {format_size(_LIMIT_BYTES)}",
            remedy,
        )


def _setting(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise OperationalError(Kind.INVALID, f"--set {text}", "is no name=value", "--set memory=512MiB")
    return name, value
