"""`ports.images` in memory. Two images, `micro` and `debian-12`, are there from the start."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import ImageId
from forkbed.drivers.simulated.world import SimulatedWorld
from forkbed.ports.images import ImageFile, ImageView, RecipeBundle, TagMove
from forkbed.ports.progress import Progress

_DISK_BYTES = 64 * 1024**2


class SimulatedImages:
    """Images without content: an id, names and a size."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world
        for name in ("micro", "debian-12"):
            self.tag(self._add(name, 0.0), f"{name}:latest", "forkbed", 0.0)

    def _add(self, origin: str, at: float) -> ImageId:
        image_id = ImageId(sha256(origin.encode()).hexdigest())
        with self._world.lock:
            self._world.images.setdefault(
                image_id, ImageView(image_id, (), _DISK_BYTES, _DISK_BYTES, at, {"origin": origin})
            )
        return image_id

    def images(self) -> Sequence[ImageView]:
        """All images with their names."""
        with self._world.lock:
            return [self._named(image) for image in self._world.images.values()]

    def _named(self, image: ImageView) -> ImageView:
        names = tuple(sorted(name for name, target in self._world.tags.items() if target == image.id))
        return replace(image, names=names)

    def resolve(self, reference: str) -> ImageView:
        """The image of a name or of the beginning of an id."""
        with self._world.lock:
            name = reference if ":" in reference else f"{reference}:latest"
            if name in self._world.tags:
                return self._named(self._world.images[self._world.tags[name]])
            matches = [i for i in self._world.images if len(reference) >= 6 and i.startswith(reference)]
            if len(matches) == 1:
                return self._named(self._world.images[matches[0]])
        raise OperationalError(
            Kind.NOT_FOUND, f"image {reference}", "is not known", "`forkbed image list` shows the images"
        )

    def file(self, image_id: ImageId) -> ImageFile:
        """A path that leads nowhere."""
        self._world.call("images.file", image_id)
        with self._world.lock:
            return ImageFile(
                Path(f"/simulated/{image_id}.qcow2"), "qcow2", self._world.images[image_id].size_bytes
            )

    def build(self, recipe: RecipeBundle, account: str, at: float, progress: Progress) -> ImageView:
        """An image named as the recipe's file."""
        progress.tell("building", done=0.5)
        self._world.clock.sleep(1.0)
        image_id = self._add(recipe.text, at)
        self.tag(image_id, f"{Path(recipe.file_name).stem}:latest", account, at)
        return self.resolve(image_id)

    def import_file(self, path: Path, name: str, account: str, at: float, progress: Progress) -> ImageView:
        """An image of the file's bytes."""
        progress.tell("importing", done=0.5)
        image_id = self._add(sha256(path.read_bytes()).hexdigest(), at)
        self.tag(image_id, name, account, at)
        return self.resolve(image_id)

    def export(self, image_id: ImageId, target: Path, format: str, progress: Progress) -> None:  # noqa: A002
        """A file that says what it would be."""
        target.write_text(f"simulated {format} image {image_id}\n")

    def tag(self, image_id: ImageId, name: str, account: str, at: float) -> TagMove:
        """Point a name at an image."""
        name = name if ":" in name else f"{name}:latest"
        with self._world.lock:
            move = TagMove(name, at, account, image_id, self._world.tags.get(name, ""))
            self._world.tags[name] = image_id
            self._world.moves.append(move)
        return move

    def history(self, name: str) -> Sequence[TagMove]:
        """Every move of a name."""
        with self._world.lock:
            found = [m for m in self._world.moves if m.name == name or m.name.startswith(f"{name}:")]
        if not found:
            raise OperationalError(Kind.NOT_FOUND, f"image name {name}", "never pointed to an image")
        return found

    def remove(self, image_id: ImageId, in_use: Collection[ImageId]) -> None:
        """Forget an image that nobody uses."""
        if image_id in in_use:
            raise OperationalError(Kind.CONFLICT, f"image {image_id[:12]}", "is in use by a machine")
        with self._world.lock:
            self._world.images.pop(image_id, None)
            self._world.tags = {n: i for n, i in self._world.tags.items() if i != image_id}
