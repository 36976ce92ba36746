"""The one-host lab: a host in namespaces of its own, to try Forkbed or test it without touching the machine.

`up`, `down`, `running`, `view` and `temporary` are what others use; a `Lab` runs commands inside. Several hosts in
one lab come later: addresses, names and the world beside the host leave room for them.
"""

from forkbed.lab.layout import DEFAULT_NAME
from forkbed.lab.lifecycle import LabView, down, names, running, sweep, temporary, up, view
from forkbed.lab.session import Lab

__all__ = ["DEFAULT_NAME", "Lab", "LabView", "down", "names", "running", "sweep", "temporary", "up", "view"]
