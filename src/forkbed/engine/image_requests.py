"""Accept requests for images: what may be removed, what a name points at, what is built or imported."""

from __future__ import annotations

from pathlib import Path

from forkbed.base.ids import ImageId
from forkbed.core.operations.records import Operation, OperationKind
from forkbed.engine.acceptance import image_ids
from forkbed.engine.requests import Request
from forkbed.engine.submission import Submission
from forkbed.engine.surroundings import Surroundings
from forkbed.ports.images import RecipeBundle, TagMove


class ImageRequests:
    """Takes in what is asked of images."""

    def __init__(self, around: Surroundings, submission: Submission) -> None:
        self._around = around
        self._submission = submission

    def remove(self, ref: str, request: Request) -> None:
        """Remove an image that no revision in force stands on."""
        with self._around.accepting:  # a manifest that is being accepted may name it
            image = self._around.host.images.resolve(ref)
            self._around.host.images.remove(image.id, self._in_use())
        self._submission.tell("image.removed", ref, request)

    def tag(self, ref: str, name: str, request: Request) -> TagMove:
        """Make `NAME:CHANNEL` point at an image."""
        image = self._around.host.images.resolve(ref)
        now = self._around.host.clock.now()
        move = self._around.host.images.tag(image.id, name, request.requester.account, now)
        self._submission.tell("image.tagged", move.name, request)
        return move

    def build(self, bundle: RecipeBundle, request: Request) -> Operation:
        """Build an image from a recipe."""
        contents = self._around.host.contents
        with self._around.accepting:
            goal: dict[str, object] = {
                "file_name": bundle.file_name,
                "text": bundle.text,
                "files": {path: contents.put(data) for path, data in bundle.files.items()},
            }
            return self._submission.submit(OperationKind.IMAGE_BUILD, None, bundle.file_name, goal, request)

    def take_over(self, path: Path, name: str, request: Request) -> Operation:
        """Take over an uploaded temporary file: the operation removes it, whatever its end."""
        goal: dict[str, object] = {"path": str(path), "name": name}
        return self._submission.submit(OperationKind.IMAGE_IMPORT, None, name, goal, request)

    def _in_use(self) -> set[ImageId]:
        """What a revision in force, a snapshot or a volume stands on."""
        store = self._around.store
        kept = [record.resolved for record in store.systems()]
        kept += [snapshot.resolved for snapshot in store.snapshots()]
        named = {image_id for resolved in kept for image_id in image_ids(resolved)}
        return named | {
            ImageId(volume.backing) for volume in self._around.host.volumes.volumes() if volume.backing
        }
