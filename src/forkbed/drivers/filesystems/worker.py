"""The process that reads guests' disks: it opens the layers' files, gives up every right it has, and then looks.

What it reads was written by a guest that may be hostile, and part of it is parsed by a library in C++. So whatever a
crafted file system makes of this process, it can read the layers it was given, and write one answer, no more: it is
nobody, has no network and no new privileges (see `driver`), and its memory, time and files are limited. One question
as JSON on standard input, one answer as JSON on standard output.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from forkbed.core.diffs.limits import Limits
from forkbed.core.diffs.rules import Selection
from forkbed.drivers.filesystems.chains import Chain, OpenLayer
from forkbed.drivers.filesystems.inspection import Inspection
from forkbed.drivers.filesystems.problems import Unreadable

_NOBODY = 65534


def main() -> int:
    """Answer the question; always 0, since an error is an answer too."""
    question = json.load(sys.stdin)
    try:
        answer = _answer(question)
    except (Unreadable, OSError) as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer, default=_plain))  # `dump` would encode in Python, ten times slower
    return 0


def _answer(question: Any) -> object:
    limits = Limits(**question["limits"])
    chains: dict[str, list[OpenLayer]] = {
        name: [_open(layer) for layer in layers] for name, layers in question["versions"].items()
    }
    _give_up_rights()
    right = Chain(chains["right"])
    left = Chain(chains["left"])
    base = Chain(chains["base"]) if "base" in chains else left
    inspection = Inspection(base, left, right, limits, with_library=question["with_library"])
    if "texts" in question:
        return {"texts": list(inspection.texts(question["texts"]))}
    selection = Selection(tuple(question["selection"]["paths"]), tuple(question["selection"]["noise"]))
    return {"disk": inspection.compare(selection)}


def _open(layer: Any) -> OpenLayer:
    return OpenLayer(layer["path"], layer["format"], os.open(layer["path"], os.O_RDONLY | os.O_CLOEXEC))


def _give_up_rights() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _plain(value: Any) -> Any:
    """A frozen dataclass as what JSON has."""
    return {name: getattr(value, name) for name in value.__slots__}


if __name__ == "__main__":
    raise SystemExit(main())
