"""The image library of a host (`ports.images`): build, import, export, name, remove."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import ImageId
from forkbed.base.words import quoted
from forkbed.config.recipe import parse_recipe
from forkbed.core.images import foreign
from forkbed.core.images.recipe import BUILT_IN_BASES
from forkbed.core.images.reference import ImageName, find, parse_name, short_id
from forkbed.drivers import durable
from forkbed.drivers.images import qemu_img
from forkbed.drivers.images.builder import BaseImage, ImageBuilder
from forkbed.drivers.images.cache import BuiltDisk
from forkbed.drivers.images.content import hash_disk, hash_file
from forkbed.drivers.images.names import NameFiles
from forkbed.drivers.images.store import FORMAT, ImageStore, StoredImage
from forkbed.ports.images import ImageFile, ImageView, RecipeBundle, TagMove
from forkbed.ports.progress import Progress

_EXPORT_FORMATS = ("qcow2", "raw")
_STAGING = ".staging-"


class HostImageLibrary:
    """Images under `state_dir`/images, builds cached under `cache_dir`/images.

    `build_network_namespace` is where builds reach Debian's archive; None: where Forkbed runs.
    """

    def __init__(self, state_dir: Path, cache_dir: Path, build_network_namespace: Path | None = None) -> None:
        self._store = ImageStore(state_dir / "images")
        self._names = NameFiles(state_dir / "images" / "names")
        self._builder = ImageBuilder(cache_dir / "images", build_network_namespace)
        for left in self._store.directory.glob(f"{_STAGING}*"):  # of an import that was killed
            shutil.rmtree(left)

    def images(self) -> Sequence[ImageView]:
        """See the port."""
        names = self._names.current()
        return [_view(image, names) for image in self._store.all()]

    def resolve(self, reference: str) -> ImageView:
        """See the port."""
        names = self._names.current()
        found = find(reference, names, [image.id for image in self._store.all()])
        return _view(self._store.get(found), names)

    def file(self, image_id: ImageId) -> ImageFile:
        """See the port."""
        return self._store.file(image_id)

    def build(self, recipe: RecipeBundle, account: str, at: float, progress: Progress) -> ImageView:
        """See the port."""
        spec = parse_recipe(recipe)
        name = parse_name(spec.name)
        base = None if spec.base in BUILT_IN_BASES else self._base(spec.base)
        built = self._builder.build(spec, base, progress)
        provenance = {
            "kind": "build",
            "recipe": spec.name,
            "base": spec.base,
            "base_image": base.id if base else "",
            "root_key": built.root_key,
            "os": built.os,
            "seed": built.seed,
        }
        image = self._take_over(built, at, {key: value for key, value in provenance.items() if value})
        return self._named(image, name, account, at)

    def import_file(self, path: Path, name: str, account: str, at: float, progress: Progress) -> ImageView:
        """See the port."""
        wanted = parse_name(name)
        file_format = _examine(path, subject=f"image {name}")
        progress.tell(f"checking {file_format} file")
        with self._staging() as staging:
            log = staging / "log"
            raw, stored = staging / "disk.raw", staging / f"disk.{FORMAT}"
            subject = f"image {name}"
            information = qemu_img.information(path, file_format, subject=subject)
            _refuse_if(foreign.size_refusal(information.virtual_bytes), subject)
            if information.other_files:
                _refuse_if(
                    foreign.Refusal(f"it needs other files: {', '.join(information.other_files)}"), subject
                )
            qemu_img.check(path, file_format, subject=subject)
            progress.tell("converting")
            qemu_img.convert(path, file_format, raw, "raw", log=log, subject=subject, progress=progress)
            with raw.open("rb") as stream:
                _refuse_if(foreign.table_refusal(stream.read(512), raw.stat().st_size), subject)
            image_id = ImageId(hash_disk(raw))
            qemu_img.convert(raw, "raw", stored, FORMAT, log=log, subject=subject, progress=progress)
            image = StoredImage(
                image_id,
                raw.stat().st_size,
                stored.stat().st_size,
                hash_file(stored),
                at,
                {"kind": "import", "file": path.name, "format": file_format},
            )
            image = self._store.add(stored, image)
        return self._named(image, wanted, account, at)

    def export(self, image_id: ImageId, target: Path, format: str, progress: Progress) -> None:  # noqa: A002
        """See the port."""
        subject = f"image {short_id(image_id)}"
        if format not in _EXPORT_FORMATS:
            raise OperationalError(
                Kind.INVALID, subject, f"cannot be exported as {quoted(format)}", "take qcow2 or raw"
            )
        source = self._store.file(image_id)
        if target.exists():
            raise OperationalError(Kind.CONFLICT, str(target), "is there already", "choose another name")
        if not target.parent.is_dir():
            raise OperationalError(Kind.NOT_FOUND, str(target.parent), "is no directory")
        with tempfile.TemporaryDirectory(prefix=f"{target.name}.", dir=target.parent) as directory:
            aside = Path(directory) / "disk"
            qemu_img.convert(
                source.path,
                source.format,
                aside,
                format,
                log=Path(directory) / "log",
                subject=subject,
                progress=progress,
                compressed=format == "qcow2",
            )
            durable.put_in_place(aside, target)

    def tag(self, image_id: ImageId, name: str, account: str, at: float) -> TagMove:
        """See the port."""
        return self._names.move(parse_name(name), self._store.get(image_id).id, account, at)

    def history(self, name: str) -> Sequence[TagMove]:
        """See the port."""
        wanted = parse_name(name)
        moves = self._names.history(wanted.name)
        found = [move for move in moves if ":" not in name or move.name == str(wanted)]
        if not found:
            raise OperationalError(
                Kind.NOT_FOUND,
                f"image name {name}",
                "never pointed to an image",
                "`forkbed image list` shows the names",
            )
        return found

    def remove(self, image_id: ImageId, in_use: Collection[ImageId]) -> None:
        """See the port."""
        image = self._store.get(image_id)
        if image.id in in_use:
            raise OperationalError(
                Kind.CONFLICT,
                f"image {short_id(image_id)}",
                "cannot be removed: machines run from it",
                "remove those machines first, or let the name point elsewhere with `forkbed image tag`",
            )
        self._names.forget(image.id)
        self._store.remove(image.id)

    def _base(self, reference: str) -> BaseImage:
        image = self._store.get(self.resolve(reference).id)
        file = self._store.file(image.id)
        return BaseImage(
            image.id,
            file.path,
            file.format,
            file.size_bytes,
            image.provenance.get("root_key", ""),
            image.provenance.get("os", ""),
        )

    def _take_over(self, built: BuiltDisk, at: float, provenance: dict[str, str]) -> StoredImage:
        with self._staging() as staging:
            stored = staging / f"disk.{FORMAT}"
            shutil.copyfile(built.path, stored)
            if hash_file(stored) != built.stored_blake3:
                built.path.unlink()
                raise OperationalError(
                    Kind.FAULT,
                    "image build",
                    "the cached result was altered",
                    "build again: it is thrown away",
                )
            size = stored.stat().st_size
            return self._store.add(
                stored,
                StoredImage(built.image_id, built.size_bytes, size, built.stored_blake3, at, provenance),
            )

    def _named(self, image: StoredImage, name: ImageName, account: str, at: float) -> ImageView:
        self._names.move(name, image.id, account, at)
        return _view(image, self._names.current())

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix=_STAGING, dir=self._store.directory) as directory:
            yield Path(directory)


def _view(image: StoredImage, names: dict[ImageName, ImageId]) -> ImageView:
    pointing = tuple(sorted(str(name) for name, image_id in names.items() if image_id == image.id))
    return ImageView(
        image.id, pointing, image.size_bytes, image.stored_bytes, image.created_at, image.provenance
    )


def _examine(path: Path, *, subject: str) -> str:
    """The format of a foreign file, judged by its first bytes."""
    try:
        with path.open("rb") as stream:
            head = stream.read(foreign.HEAD_BYTES)
            length = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise OperationalError(
            Kind.NOT_FOUND if isinstance(error, FileNotFoundError) else Kind.INVALID,
            subject,
            f"cannot be read: {error.strerror}",
        ) from error
    judged = foreign.examine(head, length)
    if isinstance(judged, foreign.Refusal):
        raise _refused(judged, subject)
    return judged.format


def _refuse_if(refusal: foreign.Refusal | None, subject: str) -> None:
    if refusal is not None:
        raise _refused(refusal, subject)


def _refused(refusal: foreign.Refusal, subject: str) -> OperationalError:
    return OperationalError(Kind.INVALID, subject, f"cannot be imported: {refusal.reason}", refusal.remedy)
