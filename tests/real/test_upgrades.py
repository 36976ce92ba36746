"""Rehearse, promote, revert with real guests: a client that writes meanwhile waits for a while and loses nothing."""

from __future__ import annotations

import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from forkbed import lab as labs
from tests.real.installation import Installation, prepare

NAME = "shop"
SERVICE = "http://127.0.0.1:18280/cgi-bin/note"
OLD = f"-{NAME}."
"""Is in the hypervisor's names of the first generation's machines."""
SOON_S = 10.0
"""Within this time the original answers again, whatever was killed."""
MANIFEST = """version: 1
system: shop
networks:
  lan: {subnet: 10.20.0.0/24, uplink: nat}
machines:
  web:
    image: micro
    memory: 128MiB
    volumes: {data: {size: 32MiB, mount: /data}}
    publish: ["18280:80"]
    files:
      - path: /srv/www/cgi-bin/note
        mode: "0755"
        content: |
          #!/bin/sh
          # Answers only when the note is on the disk.
          set -e
          : >"/data/notes/$QUERY_STRING"
          sync
          printf 'Content-Type: text/plain\\n\\n'; cat /data/page
    setup:
      - "mkdir /data/notes; echo old >/data/page"
      - {run: "httpd -p 80 -h /srv/www", when: boot}
    checks: [{exec: "test ! -e /data/unlucky", timeout: 1s}]
    maintenance: {on: ["touch /run/maintenance"], off: ["rm /run/maintenance"]}
  store:
    image: micro
    memory: 128MiB
"""
STEPS = """version: 1
steps:
  - {name: layout, machine: store, run: "echo new >/root/layout"}
  - {name: page, machine: web, run: "echo new >/data/page; sync"}
"""


@pytest.fixture(scope="module")
def shop(lab_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The system, with an upgrade that was rehearsed."""
    with labs.temporary(lab_dir, "test-upgrades-") as lab:
        installation = prepare(lab, tmp_path_factory.mktemp("upgrades"))
        installation.up(MANIFEST)
        steps = installation.directory / "steps.yaml"
        steps.write_text(STEPS)
        assert note("before") == "old"
        installation.forkbed("rehearse", NAME, "--steps", steps, "--as", "try")
        yield installation


def note(words: str, *, timeout_s: float = 5) -> str:
    """Have something noted, and be told by which version."""
    with urllib.request.urlopen(f"{SERVICE}?{words}", timeout=timeout_s) as answer:
        return str(answer.read().decode().strip())


def answers_soon(installation: Installation, page: str) -> None:
    """Whoever asks is answered, by this version."""

    def answered() -> bool:
        try:
            return note("soon", timeout_s=2) == page
        except OSError:
            return False

    installation.await_that(answered, f"the {page} version answers", SOON_S)


def notes(installation: Installation, system: str = NAME) -> set[str]:
    return set(installation.exec(f"{system}/web", "ls", "/data/notes").out.split())


def identity(installation: Installation) -> tuple[str, str]:
    """Which machine it is, and since which boot."""
    boot = installation.exec(f"{NAME}/web", "cat", "/proc/sys/kernel/random/boot_id").out
    return installation.machine(NAME, "web")["id"], boot


def assert_one_way_out(installation: Installation) -> None:
    """Of all generations and forks, one network leads out, and that is the system's."""
    script = (
        'for n in $(ls /run/netns); do ip -n "$n" link show uplink >/dev/null 2>&1 && echo "$n"; done; true'
    )
    leading_out = installation.lab.run(["sh", "-c", script]).text.split()
    assert leading_out == [Path(installation.show(NAME)["networks"][0]["namespace"]).name]


def assert_in_order(installation: Installation, generation: int) -> None:
    """That one is live, users are let in, and nothing is left over."""
    live = next(g for g in installation.forkbed("generations", NAME, "--json").json() if g["state"] == "live")
    assert live["number"] == generation
    assert_one_way_out(installation)
    installation.exec(f"{NAME}/web", "test", "!", "-e", "/run/maintenance")
    assert installation.forkbed("gc", "--dry-run", "--json").json()["items"] == []


@dataclass
class Writer:
    """A client that writes one note after the other; each is asked for until it is acknowledged."""

    pages: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)

    def write(self) -> None:
        while not self.ended.is_set():
            begun = time.monotonic()
            page = self._acknowledged(f"n{len(self.pages)}")
            if page:
                self.pages.append(page)
                self.longest_s = max(self.longest_s, time.monotonic() - begun)
            self.ended.wait(0.1)

    def _acknowledged(self, words: str) -> str:
        while not self.ended.is_set():
            try:
                return note(words, timeout_s=2)
            except OSError:
                self.ended.wait(0.1)
        return ""

    def acknowledged(self) -> set[str]:
        return {f"n{number}" for number in range(len(self.pages))}


@contextmanager
def writing() -> Iterator[Writer]:
    writer = Writer()
    thread = threading.Thread(target=writer.write)
    thread.start()
    try:
        yield writer
    finally:
        writer.ended.set()
        thread.join(30)


def go_back(installation: Installation) -> None:
    installation.forkbed("revert", NAME, "--accept-loss")


def test_a_rehearsal_leaves_the_original_alone(shop: Installation) -> None:
    assert note("since") == "old"
    assert "new" in shop.exec("try/web", "cat", "/data/page").out
    assert notes(shop, "try") == {"before"}
    assert shop.exec(f"{NAME}/store", "cat", "/root/layout", status=None).status != 0
    assert_in_order(shop, 1)


def test_a_failing_check_leaves_the_original_running(shop: Installation) -> None:
    before = identity(shop)
    shop.exec(f"{NAME}/web", "touch", "/data/unlucky")
    try:
        failed = shop.forkbed("promote", "try", "--discard-attempt", status=None)
    finally:
        shop.exec(f"{NAME}/web", "rm", "/data/unlucky")
    assert failed.status != 0
    assert "unlucky" in failed.err
    assert note("after-the-failure") == "old"
    assert identity(shop) == before
    assert_in_order(shop, 1)


@pytest.mark.parametrize("boundary", ["step layout: done", "commit: begun"])
def test_serve_dies_before_the_commit(shop: Installation, boundary: str) -> None:
    before = identity(shop)
    client = dies(shop, boundary)
    answers_soon(shop, "old")
    shop.serve()
    assert client.wait(120) != 0
    shop.await_idle()
    assert note("since-the-kill") == "old"
    assert identity(shop) == before
    assert_in_order(shop, 1)


def test_serve_dies_after_the_commit(shop: Installation) -> None:
    before = identity(shop)
    assert note("last-of-the-old") == "old"
    client = dies(shop, "commit: done")
    shop.serve()
    assert client.wait(120) == 0, shop.said()
    answers_soon(shop, "new")
    assert "last-of-the-old" in notes(shop)
    assert_in_order(shop, 2)
    comes_back_from_disk(shop)
    assert identity(shop) == before, "its processes went on"
    assert_in_order(shop, 1)


def comes_back_from_disk(installation: Installation) -> None:
    """The replaced generation gives its memory back, and a revert lets it go on; all of it in the present."""
    restart(installation, kept_in_memory="0s")  # it looks at once

    def is_saved() -> bool:
        generations = installation.forkbed("generations", NAME, "--json").json()
        return [g["state"] for g in generations] == ["live", "saved"]

    installation.await_that(is_saved, "it is saved")
    installation.await_idle()  # it looks saved a moment before the operation that saves it ends
    assert not [name for name in installation.domains() if OLD in name]
    go_back(installation)
    restart(installation)
    clock = installation.exec(f"{NAME}/web", "date", "+%s").out
    assert abs(time.time() - int(clock)) < 30, "its clock was stepped"


def restart(installation: Installation, *, kept_in_memory: str = "10m") -> None:
    installation.kill_serve()
    installation.serve(kept_in_memory=kept_in_memory)


def dies(installation: Installation, boundary: str) -> subprocess.Popen[bytes]:
    """A promotion in which the server is killed."""
    installation.kill_serve()
    installation.serve(kill_at=boundary)
    client = installation.start("promote", "try")
    installation.await_that(lambda: not installation.serves(), f"the server dies at `{boundary}`")
    return client


def test_a_client_of_a_promotion_waits_and_loses_nothing(shop: Installation) -> None:
    before = notes(shop)
    with writing() as writer:
        shop.await_that(lambda: len(writer.pages) >= 3, "the client writes")
        shop.forkbed("promote", "try")
        # The first may have been asked for before the cut: what it wrote, the new generation began with.
        shop.await_that(lambda: writer.pages[-3:] == ["new"] * 3, "the client is answered by the new version")
    switched = writer.pages.index("new")
    assert writer.pages == ["old"] * switched + ["new"] * (len(writer.pages) - switched)
    assert notes(shop) >= before | writer.acknowledged()
    assert "new" in shop.exec(f"{NAME}/store", "cat", "/root/layout").out

    refused = shop.forkbed("revert", NAME, status=None)
    assert refused.status != 0
    assert f"web/data: /notes/n{len(writer.pages) - 1}" in refused.err, "what was written since would be lost"
    assert "--accept-loss" in refused.err
    assert note("still-new") == "new"
    go_back(shop)
    answers_soon(shop, "old")
    assert notes(shop) >= before | {f"n{number}" for number in range(switched)}
    assert "still-new" not in notes(shop)
