"""Which services a file system wants started, from the links that say so. Pure.

systemd: links below `etc/systemd/system`, in `NAME.wants` and `NAME.requires` (enabled) or to `/dev/null` (masked).
Scripts of init: links `S…` in `etc/rc2.d` to `etc/rc5.d`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from forkbed.core.diffs.records import ServiceChange
from forkbed.core.diffs.threeway import standing

DIRECTORIES = ("/etc/systemd/system/", "/etc/rc2.d/", "/etc/rc3.d/", "/etc/rc4.d/", "/etc/rc5.d/")
"""All that is looked at lies below these."""

_WANTED = re.compile(r"/etc/systemd/system/[^/]+\.(?:wants|requires)/([^/]+)")
_UNIT = re.compile(r"/etc/systemd/system/([^/]+)")
_SCRIPT = re.compile(r"/etc/rc[2-5]\.d/S\d\d([^/]+)")


def states(links: Mapping[str, str]) -> Mapping[str, str]:
    """What each unit or script is, given every link (path to target) below `DIRECTORIES`."""
    enabled: set[str] = set()
    masked: set[str] = set()
    for path, target in links.items():
        if found := _WANTED.fullmatch(path):
            enabled.add(found[1])
        elif found := _SCRIPT.fullmatch(path):
            enabled.add(f"init script {found[1]}")
        elif (found := _UNIT.fullmatch(path)) and target == "/dev/null":
            masked.add(found[1])
    return {
        unit: ", ".join(
            word for word, has in (("masked", unit in masked), ("enabled", unit in enabled)) if has
        )
        for unit in enabled | masked
    }


def service_changes(
    base: Mapping[str, str], left: Mapping[str, str], right: Mapping[str, str]
) -> tuple[ServiceChange, ...]:
    """The units and scripts whose state a side changed, by name."""
    changes = []
    for name in sorted({*base, *left, *right}):
        told = base.get(name, ""), left.get(name, ""), right.get(name, "")
        stands = standing(*told)
        if stands is not None:
            changes.append(ServiceChange(name, stands, *told))
    return tuple(changes)
