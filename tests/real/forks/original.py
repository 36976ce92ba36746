"""A system of real guests to be forked, and how to tell that it, or a fork of it, goes on where it was.

Two of its machines hold a conversation over one TCP connection: `b` sends a number four times a second, `a` sends it
back. Whoever has all numbers from 1 on, each once, and gets new ones, was never cut off.
"""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import libvirt
import libvirt_qemu

from forkbed.api.client import Client
from forkbed.api.frames import Channel
from forkbed.base.errors import OperationalError
from forkbed.core.operations.records import Event, OperationStatus
from forkbed.drivers import processes
from forkbed.drivers.libvirt.saveimage import disk_files, disk_serial
from forkbed.drivers.networks import namespaces
from forkbed.engine.branching import SnapshotSummary
from forkbed.ports.guests import CommandRequest
from tests.real.installation import Done, Installation

T = TypeVar("T")
NAME = "trio"
TALKERS = ("a", "b")
SUBNET = "10.20.0.0/24"
ADDRESS = {"a": "10.20.0.10", "b": "10.20.0.11", "c": "10.20.0.12"}
GATEWAY = "10.20.0.1"
SOON_S = 10.0
"""Within this time the original answers again, whatever was killed."""
STATE = "/var/lib/forkbed"
FRAMES_SOURCE = Path(__file__).parents[1] / "networks" / "frames.c"
MANIFEST = f"""version: 1
system: {NAME}
networks:
  lan: {{subnet: {SUBNET}, uplink: nat}}
machines:
  a: &machine
    image: micro
    memory: 128MiB
    volumes: {{data: {{size: 32MiB, mount: /data}}}}
    files: [{{path: /usr/local/bin/frames, source: frames, mode: "0755"}}]
    setup: ["echo once >>/root/set-up"]
  b: *machine
  c: *machine
"""
# What lives in the guests' memory only: a reboot ends it.
_LIVES = {
    "a": """
        mkdir -p /run/www
        echo kept in memory >/run/mark; echo kept on disk >/data/mark; sync
        sh -c 'exec 3<>/data/gone; echo kept open >&3; rm /data/gone; echo $$ >/run/holder
               while :; do sleep 1000; done' </dev/null >/dev/null 2>&1 &
        httpd -f -p 80 -h /run/www </dev/null >/dev/null 2>&1 &
        echo $! >/run/lives
        nc -l -p 7000 -e sh -c 'echo $$ >>/run/lives
               while read number; do echo $number >>/run/www/got; echo $number; done' </dev/null >/dev/null 2>&1 &
        while [ ! -s /run/holder ]; do sleep 0.1; done; cat /run/holder >>/run/lives""",
    "b": f"""
        (number=0; while :; do number=$((number+1)); echo $number
            head -c 8 /dev/urandom | xxd -p >>/run/random; sleep 0.25; done) 2>/dev/null |
            nc {ADDRESS["a"]} 7000 >/run/echoed 2>/dev/null &
        echo $! >/run/lives""",
}
_LIFE = """
    cat /proc/sys/kernel/random/boot_id /etc/dropbear/dropbear_ed25519_host_key | md5sum
    for pid in $(cat /run/lives); do cut -d' ' -f1,22 /proc/$pid/stat; done
    netstat -tn | awk '/:7000 / {print $4, $5, $6}'
    ip -o addr show dev eth0 | awk '{print $3, $4}'; cat /sys/class/net/eth0/address; hostname"""


@dataclass(frozen=True, slots=True)
class Site(Installation):
    """An installation with the system in it. `lives` is what the talkers were when it began."""

    lives: dict[str, str] = field(default_factory=dict)

    def begin(self) -> None:
        """Bring the system up, with `c` stopped afterwards, and let the others talk."""
        processes.run(["gcc", "-static", "-Os", "-o", self.directory / "frames", FRAMES_SOURCE])
        self.up(MANIFEST)
        self.forkbed("stop", f"{NAME}/c")
        for machine, script in _LIVES.items():
            self.shell(f"{NAME}/{machine}", script)
        self.await_that(lambda: self.heard(NAME), "the machines talk")
        self.lives.update({machine: self.life(f"{NAME}/{machine}") for machine in TALKERS})

    # inside the guests; by the client of the API, which is quicker than a command each

    def shell(self, machine: str, script: str, *, via: str = "auto", status: int | None = 0) -> str:
        """The output of a script in a guest."""
        system, _, name = machine.partition("/")
        output = {Channel.OUTPUT: bytearray(), Channel.ERROR_OUTPUT: bytearray()}
        request = CommandRequest(("sh", "-c", script), via=via)
        with self.client() as client, client.open_command(system, name, request) as stream:
            stream.close_input()
            for channel, data in stream.output():
                output[channel] += data
            said = {channel: data.decode(errors="replace").strip() for channel, data in output.items()}
            assert status is None or stream.exit_status == status, f"{machine}: {script}\n{said}"
        return said[Channel.OUTPUT]

    def life(self, machine: str) -> str:
        """Boot, host key, processes, the TCP connection, addresses, name: what forks have in common for good."""
        return self.shell(machine, _LIFE)

    def heard(self, system: str) -> int:
        """The last number that `b` got back; it got every one before it too, once."""
        numbers = [int(line) for line in self.shell(f"{system}/b", "cat /run/echoed").splitlines()]
        assert numbers == list(range(1, len(numbers) + 1))
        return len(numbers)

    def assert_goes_on(self, *systems: str) -> None:
        """The talkers are what they were, on the same connection, and go on talking."""
        before = {system: self.heard(system) for system in systems}
        for system in systems:
            assert {m: self.life(f"{system}/{m}") for m in TALKERS} == self.lives, system
        for system in systems:
            self.await_that(lambda s=system: self.heard(s) > before[s], f"the machines of {system} talk")  # type: ignore[misc]

    def checksums(self, machine: str, *directories: str) -> str:
        """Of all files there, read from the disks."""
        where = " ".join(directories)
        script = f"sync; echo 3 >/proc/sys/vm/drop_caches; find {where} -type f | sort | xargs md5sum"
        return self.shell(machine, script)

    # seen from the host

    def namespace(self, system: str) -> Path:
        """The service namespace of its network, as seen from outside the lab."""
        return Path(f"/proc/{self.lab.init.pid}/root{self.show(system)['networks'][0]['namespace']}")

    def got(self, namespace: Path) -> int:
        """How many numbers came to `a`, asked over the network: no part of Forkbed is needed for it."""

        def ask() -> int:
            with urllib.request.urlopen(f"http://{ADDRESS['a']}/got", timeout=2) as answer:
                return len(answer.read().split())

        with contextlib.suppress(OSError):
            return namespaces.run_inside(namespace, ask)
        return 0

    def assert_answers_soon(self, namespace: Path) -> None:
        """The talkers go on, whether or not anything of Forkbed lives."""
        self.await_that(lambda: self.got(namespace), "it answers", SOON_S)
        before = self.got(namespace)
        self.await_that(lambda: self.got(namespace) > before, "its connection lives", SOON_S)

    def on_hypervisor(self, ask: Callable[[Any], T]) -> Mapping[str, T]:
        """What `ask` says of each domain that runs or is paused, by name."""
        connection = libvirt.open(self.lab.libvirt_uri)
        try:
            domains = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            return {domain.name(): ask(domain) for domain in domains}
        finally:
            connection.close()

    def sticky(self) -> list[str]:
        """Domains in which the capability of background snapshots is still on."""
        query = '{"execute": "query-migrate-capabilities"}'
        told = self.on_hypervisor(
            lambda domain: json.loads(libvirt_qemu.qemuMonitorCommand(domain, query, 0))["return"]
        )
        wanted = {"capability": "background-snapshot", "state": False}
        return [name for name, capabilities in told.items() if wanted not in capabilities]

    def chains(self, system: str) -> Mapping[str, Sequence[str]]:
        """The files of each disk of its machines that run, active layer first, by `machine/disk`."""
        shown = self.on_hypervisor(lambda domain: ElementTree.fromstring(domain.XMLDesc(0)))
        return {
            f"{machine['name']}/{serial}": files
            for machine in self.show(system)["machines"]
            if machine["domain"] in shown
            for disk in shown[machine["domain"]].iterfind("devices/disk")
            for serial, files in [(disk_serial(disk), disk_files(disk))]
            if serial != "seed"
        }

    def memory_files(self) -> Mapping[str, int]:
        """Mode by name of everything in the directory of memories."""
        directory = self.lab.paths.state / "memory"
        return {path.name: path.stat().st_mode & 0o777 for path in directory.rglob("*")}

    @property
    def volumes(self) -> Path:
        """The directory of volumes."""
        return self.lab.paths.state / "volumes"

    def volume_files(self) -> set[str]:
        """The layers of all disks, whether or not anything stands on them."""
        return {path.name for path in self.volumes.glob("*.qcow2")}

    def leaked(self) -> set[str]:
        """Layers in no chain of any system that is there."""
        with self.client() as client:
            present = {system.id for system in client.systems()}
        records = [json.loads(path.read_text()) for path in self.volumes.glob("*.json")]
        chains = [record for record in records if record["system_id"] in present]
        stood_on = {layer["path"] for record in chains for layer in record["layers"]}
        return self.volume_files() - stood_on - {record["active"] for record in chains}

    # what Forkbed says

    def client(self) -> Client:
        return Client(self.lab.api_socket)

    def systems(self) -> set[str]:
        with self.client() as client:
            return {system.name for system in client.systems()}

    def snapshots(self, system: str = NAME) -> Sequence[SnapshotSummary]:
        with self.client() as client:
            return client.snapshots(system)

    def snapshot_names(self, system: str = NAME) -> list[str]:
        return [snapshot.name for snapshot in self.snapshots(system)]

    def events(self, kind: str) -> list[Event]:
        with self.client() as client:
            return [event for event in client.events(limit=10_000) if event.kind == kind]

    def serves(self) -> bool:
        try:
            self.systems()
        except OperationalError:
            return False
        return True

    def fork(self, *words: str) -> Done:
        return self.forkbed("fork", NAME, *words)

    def remove_branches(self) -> None:
        """Discard all forks and delete all snapshots."""
        if not self.serves():
            self.serve()
        self.await_idle()
        with self.client() as client:
            begun = [client.discard(system) for system in self.systems() - {NAME}]
            for operation in begun:
                assert client.wait(operation.id).status is OperationStatus.SUCCEEDED
            for name in self.snapshot_names():
                removed = client.wait(client.snapshot_delete(NAME, name).id)
                assert removed.status is OperationStatus.SUCCEEDED

    def assert_unharmed(self) -> None:
        """Nothing is left of what was made, and the original is what it was when it began."""
        self.await_idle()
        assert self.systems() == {NAME}
        assert self.memory_files() == {}
        assert self.sticky() == []
        assert self.leaked() == set()
        with self.client() as client:
            assert client.garbage(dry_run=True).items == ()
            assert client.system(NAME).summary.machines_ready == len(TALKERS)
        self.assert_goes_on(NAME)
