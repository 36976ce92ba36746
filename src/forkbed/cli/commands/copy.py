"""`copy`: files and directories to and from machines, as tar streams over `exec`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from forkbed.base.errors import Kind, OperationalError
from forkbed.cli.invocation import current
from forkbed.cli.output import say
from forkbed.cli.targets import GuestPath, guest_path, place
from forkbed.cli.transfer import Remote, copy_between, download, receive_stream, send_stream, upload

Place = Annotated[
    str, Parameter(help="A local path, SYSTEM/MACHINE:PATH, or `-`.", allow_leading_hyphen=True)
]


def copy(
    source: Place,
    target: Place,
    /,
    *,
    user: Annotated[
        str, Parameter(name=["--user", "-u"], help="Read or write as this user of the machine.")
    ] = "root",
) -> None:
    """Copy a file or a directory to or from a machine; modes are kept, and any size goes.

    As with `cp -r`, a source goes into a target that is a directory, and otherwise is given the target's name.
    What arrives belongs to the user who copies. `-` stands for standard input or output, as one file's content.
    A local name that looks like SYSTEM/MACHINE:PATH is written `./NAME`.

    ```
    forkbed copy app.conf boss-ops/boss:/etc/app.conf
    forkbed copy boss-ops/boss:/var/log ./logs
    pg_dump mydb | forkbed copy - boss-ops/boss:/srv/dump.sql
    ```
    """
    origin, destination = guest_path(place(source)), guest_path(place(target))
    with current().client() as client:
        remote = Remote(client, user, tell=say)
        match origin, destination:
            case GuestPath(), GuestPath():
                copy_between(remote, origin, destination)
            case None, GuestPath():
                if source == "-":
                    send_stream(remote, sys.stdin.buffer, destination)
                else:
                    upload(remote, Path(source), destination)
            case GuestPath(), None:
                if target == "-":
                    receive_stream(remote, origin, sys.stdout.buffer)
                else:
                    download(remote, origin, Path(target), into=target.endswith("/"))
            case _:
                raise OperationalError(
                    Kind.INVALID,
                    "forkbed copy",
                    "neither of the two is in a machine",
                    "name a machine's file as SYSTEM/MACHINE:PATH",
                )
