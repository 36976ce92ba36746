"""What `host prepare` has done, as a file: enough to take back exactly that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers.durable import write_durably
from forkbed.drivers.hostsetup.plan import (
    InstallPackages,
    MakeDirectory,
    SetSysctl,
    Step,
    WriteBlock,
    WriteFile,
)

_FORMAT = 1
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (InstallPackages, MakeDirectory, WriteFile, WriteBlock, SetSysctl)
}


def load_record(path: Path) -> tuple[Step, ...]:
    """The recorded steps, oldest first; none if nothing was ever prepared. FAULT for a damaged record."""
    try:
        data = json.loads(path.read_text())
        if data["format"] != _FORMAT:
            raise ValueError(f"its format is {data['format']}, not {_FORMAT}")
        return tuple(_step(entry) for entry in data["steps"])
    except FileNotFoundError:
        return ()
    except (ValueError, KeyError, TypeError) as error:
        raise OperationalError(
            Kind.FAULT,
            str(path),
            f"what was done to this host cannot be read: {error}",
            "restore the file, or remove it and take the changes back by hand",
        ) from error


def save_record(path: Path, steps: Sequence[Step]) -> None:
    """Replace the record; on disk when this returns."""
    entries = [{"kind": type(step).__name__, **asdict(step)} for step in steps]
    write_durably(path, json.dumps({"format": _FORMAT, "steps": entries}, indent=1).encode())


def _step(entry: dict[str, Any]) -> Step:
    values = dict(entry)
    kind = _KINDS[values.pop("kind")]
    step: Step = kind(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    )
    return step
