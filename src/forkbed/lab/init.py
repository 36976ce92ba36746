"""The first process of a lab: makes it a host of its own, then keeps libvirt running in it.

Started inside fresh network, mount, PID, UTS and IPC namespaces. It is their PID 1: when it is killed, the kernel
kills everything else in the lab, and the namespaces and mounts go with the last process. So nothing is ever
undone here. Plays for libvirtd the part that systemd plays on a real host: a daemon that dies is started again.

usage: python -m forkbed.lab.init DIRECTORY OUTSIDE_NET_DESCRIPTOR
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from forkbed.config.log import configure_log
from forkbed.drivers import processes
from forkbed.lab.layout import (
    ADDRESS_PREFIX,
    HOST_ADDRESS,
    OUTSIDE_NETWORK,
    WORLD_ADDRESS,
    WORLD_NAMESPACE,
    LabPaths,
    LabRecord,
)

_SYSCTLS = {
    # Before any tap exists: a tap gets a link-local address of its own and asks the guests for routers.
    "net/ipv6/conf/default/disable_ipv6": "1",
    "net/ipv4/ip_forward": "1",
    # Bridged frames must not pass the inet chains and one conntrack zone common to all bridges.
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/bridge/bridge-nf-call-ip6tables": "0",
    "net/bridge/bridge-nf-call-arptables": "0",
}
_LIBVIRT_USER = "libvirt-qemu:x:64055:64055:Libvirt Qemu:/nonexistent:/usr/sbin/nologin"
_LIBVIRT_GROUP = "libvirt-qemu:x:64055:"
_QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
"""
_LIBVIRTD_CONF = """\
listen_tls = 0
listen_tcp = 0
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
max_workers = 40
host_uuid = "{host_uuid}"
"""


def main(argv: list[str]) -> None:
    """Become the lab's host; never returns unless something is wrong at the start."""
    configure_log(os.environ)
    paths = LabPaths(Path(argv[0]))
    record = LabRecord.load(paths.record)
    if record is None:
        sys.exit(f"{paths.record} is missing or damaged")
    held = _mount(paths, outside_network=int(argv[1]))
    _extend_databases(paths)
    _set_sysctls()
    _connect_to_world()
    _configure_libvirt(record.host_uuid)
    _supervise()
    del held


def _mount(paths: LabPaths, *, outside_network: int) -> list[int]:
    """Put the lab's directories in place of the host's; returns descriptors that must stay open.

    An exclusive lock on a mount point tells whoever would remove the directory that it is in use: removing a
    directory in one mount namespace silently drops what others have mounted there.
    """
    resolver = Path("/etc/resolv.conf").resolve()
    nameservers = resolver.read_bytes() if resolver.is_file() else None
    held = []
    for source, target in paths.mounts().items():
        source.mkdir(exist_ok=True)
        descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        held.append(descriptor)
        processes.run(["mount", "--bind", source, target])
    for directory in ("lock", "netns", OUTSIDE_NETWORK.parent):
        (Path("/run") / directory).mkdir(parents=True, exist_ok=True)
    if nameservers is not None and resolver.is_relative_to("/run"):
        resolver.parent.mkdir(parents=True, exist_ok=True)
        resolver.write_bytes(nameservers)
    OUTSIDE_NETWORK.touch()
    processes.run(["mount", "--bind", f"/proc/{os.getpid()}/fd/{outside_network}", OUTSIDE_NETWORK])
    os.close(outside_network)
    # /sys shows the network devices of the namespace in which it was mounted. The old one goes, with all that is
    # mounted below it: libvirt would look for control groups that it can see in the list of mounts, but not reach.
    processes.run(["umount", "--lazy", "--recursive", "/sys"])
    processes.run(["mount", "-t", "sysfs", "sysfs", "/sys"])
    processes.run(["hostname", f"lab-{paths.name}"])
    return held


def _extend_databases(paths: LabPaths) -> None:
    """Give the lab a name that resolves, and the accounts that libvirtd looks up before it reads not to use them.

    Without the name libvirt waits ten seconds for DNS at each machine. The accounts are those that Debian's
    libvirt-daemon-system makes on a real host; the lab does without that package.
    """
    name = f"lab-{paths.name}"
    _extend(paths, Path("/etc/hosts"), f"{HOST_ADDRESS} {name}", present=name)
    _extend(paths, Path("/etc/passwd"), _LIBVIRT_USER, present="libvirt-qemu:")
    _extend(paths, Path("/etc/group"), _LIBVIRT_GROUP, present="libvirt-qemu:")


def _extend(paths: LabPaths, database: Path, entry: str, *, present: str) -> None:
    """Mount a copy with one more line over a file of /etc, unless the line is there."""
    entries = database.read_text()
    if present in entries:
        return
    own = paths.root / f"etc-{database.name}"
    own.write_text(f"{entries.rstrip()}\n{entry}\n")
    own.chmod(0o644)
    processes.run(["mount", "--bind", own, database])


def _set_sysctls() -> None:
    for name, value in _SYSCTLS.items():
        path = Path("/proc/sys") / name
        if path.exists():  # br_netfilter may not be there
            path.write_text(value)


def _connect_to_world() -> None:
    """A namespace beside the host stands for everything outside; it offers nothing until somebody serves there."""
    processes.run(["ip", "netns", "add", WORLD_NAMESPACE])
    host = (
        "link set lo up",
        f"link add eth0 type veth peer name eth0 netns {WORLD_NAMESPACE}",
        f"addr add {HOST_ADDRESS}/{ADDRESS_PREFIX} dev eth0",
        "link set eth0 up",
        f"route add default via {WORLD_ADDRESS}",
    )
    world = ("link set lo up", f"addr add {WORLD_ADDRESS}/{ADDRESS_PREFIX} dev eth0", "link set eth0 up")
    processes.run(["ip", "-batch", "-"], input="\n".join(host).encode())
    processes.run(["ip", "-netns", WORLD_NAMESPACE, "-batch", "-"], input="\n".join(world).encode())


def _configure_libvirt(host_uuid: str) -> None:
    configuration = Path("/etc/libvirt")
    (configuration / "libvirtd.conf").write_text(_LIBVIRTD_CONF.format(host_uuid=host_uuid))
    (configuration / "qemu.conf").write_text(_QEMU_CONF)
    (configuration / "virtlogd.conf").touch()


@dataclass(slots=True)
class _Daemon:
    argv: tuple[str, ...]
    process: processes.Process
    started_s: float


def _make_status_directory() -> None:
    """Where libvirt writes down what each machine does: in memory, as a real host's `/run` is.

    It waits for a disk there some thirty times for each machine of a fork.
    """
    shutil.rmtree("/run/libvirt", ignore_errors=True)
    status = Path("/run/libvirt/qemu")
    status.mkdir(parents=True, exist_ok=True)
    processes.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", status])


def _supervise() -> None:
    """Keep the daemons running and reap every orphan of the lab, until somebody kills this process."""
    _make_status_directory()
    daemons = [_start(("virtlogd",)), _start(("libvirtd",))]
    while True:
        pid, _ = os.waitpid(-1, 0)
        for number, daemon in enumerate(daemons):
            if daemon.process.pid == pid:
                # One that cannot start at all must not keep the machine busy.
                time.sleep(0.1 if time.monotonic() - daemon.started_s > 5 else 2)
                daemons[number] = _start(daemon.argv)


def _start(argv: tuple[str, ...]) -> _Daemon:
    # Its own session: an interrupt typed at a terminal is not meant for it.
    process = processes.spawn(argv, stdout=None, stderr=None, own_session=True)
    return _Daemon(argv, process, time.monotonic())


if __name__ == "__main__":
    main(sys.argv[1:])
