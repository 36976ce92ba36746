"""A lab with `forkbed serve` in it, used as a person uses it: through the command line."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forkbed import lab as labs
from forkbed.lab.session import forkbed_program

MICRO_RECIPE = "version: 1\nname: micro\nbase: micro\n"
PAIR = """version: 1
system: pair
networks:
  lan: {subnet: 10.30.0.0/24, uplink: nat}
machines:
  a:
    image: micro
    memory: 128MiB
    volumes: {data: {size: 32MiB, mount: /data}}
    publish: ["18180:80"]
    setup:
      - mkdir -p /www && echo hello > /www/index.html
      - {run: "httpd -p 80 -h /www", when: boot}
    ready: [{http: {port: 80}}]
  b:
    image: micro
    memory: 128MiB
    after: [a]
"""


@dataclass(frozen=True, slots=True)
class Done:
    """A finished command."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Installation:
    """Runs `forkbed` against the lab. `directory` is for manifests."""

    lab: labs.Lab
    directory: Path

    def forkbed(
        self, *words: str | Path, status: int | None = 0, data: bytes = b"", timeout_s: float = 180
    ) -> Done:
        """Run a command to its end; `status` is the exit status it has to have (None: any)."""
        argv = [str(forkbed_program()), *map(str, words)]
        if "--" in argv:
            argv[1:1] = ["--lab", self.lab.name]
        else:
            argv += ["--lab", self.lab.name]
        run = subprocess.run(argv, input=data, capture_output=True, timeout=timeout_s, check=False)
        done = Done(run.returncode, run.stdout.decode(errors="replace"), run.stderr.decode(errors="replace"))
        assert status is None or done.status == status, f"{argv} -> {done.status}\n{done.out}\n{done.err}"
        return done

    def start(self, *words: str | Path) -> subprocess.Popen[bytes]:
        """Begin a command and leave it running; what it says is in `said`."""
        argv = [str(forkbed_program()), *map(str, words), "--lab", self.lab.name]
        with (self.directory / "said").open("wb") as said:
            return subprocess.Popen(argv, stdout=said, stderr=said)

    def said(self) -> str:
        """What the last command that was left running said so far."""
        return (self.directory / "said").read_text(errors="replace")

    def up(self, text: str, *options: str, status: int | None = 0) -> Done:
        manifest = self.directory / "system.yaml"
        manifest.write_text(text)
        return self.forkbed("up", manifest, *options, status=status)

    def exec(self, machine: str, *argv: str, status: int | None = 0, data: bytes = b"") -> Done:
        return self.forkbed("exec", machine, "--", *argv, status=status, data=data)

    def show(self, system: str) -> Any:
        return self.forkbed("show", system, "--json").json()

    def machine(self, system: str, name: str) -> Any:
        return next(machine for machine in self.show(system)["machines"] if machine["name"] == name)

    def serve(self, kill_at: str = "", *, kept_in_memory: str = "10m") -> None:
        """Start the server; with `kill_at` it kills itself at that step boundary."""
        environment = [f"FORKBED_KEPT_IN_MEMORY={kept_in_memory}"]
        if kill_at:
            environment.append(f"FORKBED_FAULT_KILL_AT={kill_at}")
        self.lab.run(["env", *environment, forkbed_program(), "serve", "--detach"], timeout_s=120)

    def serves(self) -> bool:
        return self.forkbed("list", status=None).status == 0

    def kill_serve(self) -> None:
        """kill -9, and wait until it is gone."""
        self.lab.run(["sh", "-c", "kill -9 $(cat /run/forkbed/api.pid)"])
        self.await_that(lambda: not self.serves(), "the server is gone")

    def domains(self) -> set[str]:
        """Names of the machines that QEMU runs now, as libvirt says."""
        return set(self.lab.run(["virsh", "list", "--name"]).text.split())

    def leftovers(self) -> str:
        """Whatever of ours is on the host: domains, links, namespaces, disks, dnsmasq."""
        script = (
            "virsh list --all --name; ip -o link | grep -o ' fb[^:@]*'; ip netns list | grep fb-;"
            "ls /var/lib/forkbed/volumes /var/lib/forkbed/seeds /var/lib/forkbed/consoles | grep '[.]';"
            "nft list tables | grep fb; pidof dnsmasq; true"
        )
        return self.lab.run(["sh", "-c", script]).text.strip()

    def await_that(self, condition: Callable[[], object], what: str, timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
            time.sleep(0.2)

    def await_idle(self) -> None:
        """Until no operation is under way."""

        def idle() -> bool:
            done = self.forkbed("operations", "list", "--json", status=None)
            if done.status:
                return False
            ended = ("succeeded", "failed", "cancelled")
            return all(operation["status"] in ended for operation in done.json())

        self.await_that(idle, "no operation is under way")

    def remove_everything(self) -> None:
        """Delete every system, whatever state it is in."""
        if not self.serves():
            self.serve()
        for system in self.forkbed("list", "--json").json():
            self.forkbed("down", system["name"], "--delete")


def prepare(lab: labs.Lab, directory: Path) -> Installation:
    """Serve in the lab and have the micro image."""
    installation = Installation(lab, directory)
    installation.serve()
    recipe = directory / "micro.yaml"
    recipe.write_text(MICRO_RECIPE)
    installation.forkbed("image", "build", recipe, timeout_s=400)
    return installation


def lines(text: str) -> Sequence[str]:
    return [line for line in text.splitlines() if line.strip()]
