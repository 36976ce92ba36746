"""How everything wrong with a document is told: one exception, a line for each problem, in the file's order."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from forkbed.base.errors import Kind, OperationalError

Path = tuple[str | int, ...]

_MAX_LINES = 1000
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, order=True)
class LocatedProblem:
    """A problem with its place: line and column count from 1, `path` is written for people."""

    line: int
    column: int
    path: str
    wrong: str
    right: str = ""

    def render(self, file_name: str) -> str:
        """`file:line:col: path: what is wrong; what would be right`; the path is left out at the top."""
        place = f"{file_name}:{self.line}:{self.column}: "
        path = f"{self.path}: " if self.path else ""
        return place + path + self.wrong + (f"; {self.right}" if self.right else "")


class ManifestInvalid(OperationalError):
    """A document (a manifest, an image recipe, steps) that cannot be right, with all of its problems at once."""

    def __init__(self, file_name: str, problems: Iterable[LocatedProblem]) -> None:
        self.file_name = file_name
        self.problems = sorted(set(problems))
        count = len(self.problems)
        lines = [problem.render(file_name) for problem in self.problems[:_MAX_LINES]]
        if count > _MAX_LINES:
            lines.append(f"{file_name}: … and {count - _MAX_LINES} more")
        super().__init__(
            Kind.INVALID,
            file_name,
            f"{count} problems, nothing was changed" if count != 1 else "a problem, nothing was changed",
            details=tuple(lines),
        )


def render_path(path: Path) -> str:
    """A path as people write it: `machines.boss.nics[0].address`; odd keys in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        key = part if _BARE_KEY.fullmatch(part) else '"' + part.replace('"', '\\"') + '"'
        text += f".{key}" if text else key
    return text
