"""What a recipe adds to a root file system: packages, files, commands, all done inside it.

Nothing here follows a link of the image on the host's side: files go in through a tar archive that the image's
own tar unpacks.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from forkbed.core.images.recipe import RecipeFile, RecipeSpec
from forkbed.drivers.images import guestfiles
from forkbed.drivers.images.bootstrap import AptEnvironment, apt_configuration
from forkbed.drivers.images.watched import run_contained
from forkbed.drivers.processes import Argument
from forkbed.ports.progress import Progress

_ARCHIVE = ".forkbed-files.tar"
# An archive that does not answer is no reason to stop: the lists and packages of an earlier build may be enough.
_INSTALL = (
    'options=$1; shift; apt-get $options update || echo "going on with the package lists of an earlier build"; '
    'exec apt-get $options install --yes --no-install-recommends -- "$@"'
)
_HIDE_OTHER_DISKS = "[ ! -f /etc/fstab ] || sed -i -E 's/^(UUID|LABEL|PARTUUID|PARTLABEL)=/# &/' /etc/fstab"


@dataclass(frozen=True, slots=True)
class RootFileSystem:
    """A root file system in a directory, and what is needed to run commands in it."""

    path: Path
    apt: AptEnvironment
    log: Path
    progress: Progress

    def run(self, command: Sequence[str], *, subject: str, with_packages: bool = False) -> None:
        """Run a command inside. Raises FAULT with the end of its output if it fails."""
        cache = str(self.apt.prepare()) if with_packages else ""
        argv: list[Argument] = ["sh", guestfiles.step("chroot.sh"), self.path, cache, *command]
        run_contained(self.apt.networked(argv), log=self.log, subject=subject, progress=self.progress)

    def place(self, files: Sequence[RecipeFile], *, subject: str) -> None:
        """Put files inside, with the owners that the image knows."""
        archive = self.path / _ARCHIVE
        archive.unlink(missing_ok=True)
        archive.write_bytes(_pack(files))
        try:
            self.run(("tar", "-x", "-p", "-f", f"/{_ARCHIVE}", "-C", "/"), subject=subject)
        finally:
            archive.unlink(missing_ok=True)


def provision(recipe: RecipeSpec, root: RootFileSystem) -> None:
    """Do to the root file system what the recipe says, in order."""
    if recipe.packages:
        root.progress.tell(f"installing {len(recipe.packages)} packages")
        root.run(
            ("sh", "-c", _INSTALL, "install", " ".join(_apt_options()), *recipe.packages),
            subject=f"packages of recipe {recipe.name}",
            with_packages=True,
        )
    if recipe.files:
        root.place(recipe.files, subject=f"files of recipe {recipe.name}")
    for number, command in enumerate(recipe.commands, 1):
        root.progress.tell(f"running command {number} of {len(recipe.commands)}")
        subject = f"command {number} of recipe {recipe.name}"
        root.run(("sh", "-e", "-c", command), subject=subject, with_packages=bool(recipe.packages))


def clean(root: RootFileSystem) -> None:
    """Remove what only the build needed and what may belong to one machine only."""
    root.run(("sh", "-c", guestfiles.step("clean.sh").read_text()), subject="clean-up")


def forget_other_disks(root: RootFileSystem) -> None:
    """A foreign image's fstab names file systems that the rebuilt disk does not have: take them out."""
    root.run(("sh", "-c", _HIDE_OTHER_DISKS), subject="fstab")


def _apt_options() -> list[str]:
    pairs = (re.fullmatch(r'(\S+) "(\S*)";', line) for line in apt_configuration())
    # A killed build is thrown away whole, so dpkg need not wait for the disk after each file.
    unhurried = "-oDpkg::Options::=--force-unsafe-io"
    return [unhurried, *(f"-o{pair[1]}={pair[2]}" for pair in pairs if pair)]


def _pack(files: Sequence[RecipeFile]) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for file in files:
            member = tarfile.TarInfo(file.path.lstrip("/"))
            member.size, member.mode = len(file.content), file.mode
            member.uname, _, member.gname = file.owner.partition(":")
            archive.addfile(member, BytesIO(file.content))
    return buffer.getvalue()
