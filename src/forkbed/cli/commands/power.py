"""`start`, `stop`, `restart`, `pause`, `resume`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from forkbed.cli.invocation import current
from forkbed.cli.targets import system_or_machine
from forkbed.cli.waiting import finish
from forkbed.engine.requests import PowerAction

Target = Annotated[str, Parameter(help="SYSTEM, or SYSTEM/MACHINE for one machine.")]
Force = Annotated[bool, Parameter(help="Do not ask the guest: as if its plug was pulled.")]
NoWait = Annotated[bool, Parameter(name="--no-wait", help="Only start the operation and print its id.")]


def start(target: Target, /, *, no_wait: NoWait = False) -> int:
    """Start a system or a machine, and wait until it is ready.

    ```
    forkbed start boss-ops
    forkbed start boss-ops/boss
    ```
    """
    return _power(target, PowerAction.START, no_wait=no_wait)


def stop(target: Target, /, *, force: Force = False, no_wait: NoWait = False) -> int:
    """Shut a system or a machine down. It stays down until it is started.

    ```
    forkbed stop boss-ops/boss
    forkbed stop boss-ops --force
    ```
    """
    return _power(target, PowerAction.STOP, force=force, no_wait=no_wait)


def restart(target: Target, /, *, force: Force = False, no_wait: NoWait = False) -> int:
    """Shut a system or a machine down and start it again, with what was changed meanwhile.

    ```
    forkbed restart boss-ops/boss
    ```
    """
    return _power(target, PowerAction.RESTART, force=force, no_wait=no_wait)


def pause(target: Target, /, *, no_wait: NoWait = False) -> int:
    """Freeze a system or a machine in memory; it does not notice.

    ```
    forkbed pause boss-ops
    ```
    """
    return _power(target, PowerAction.PAUSE, no_wait=no_wait)


def resume(target: Target, /, *, no_wait: NoWait = False) -> int:
    """Let what was paused go on.

    ```
    forkbed resume boss-ops
    ```
    """
    return _power(target, PowerAction.RESUME, no_wait=no_wait)


def _power(target: str, action: PowerAction, *, force: bool = False, no_wait: bool) -> int:
    system, machines = system_or_machine(target)
    with current().client() as client:
        operation = client.power(system, action, machines, force=force)
        return finish(client, operation, wait=not no_wait)
