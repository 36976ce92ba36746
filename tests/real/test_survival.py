"""Never lose anything: controller, libvirtd, guests and the host itself die, at bad moments; systems live on."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkbed import lab as labs
from tests.real.installation import PAIR, Installation, prepare


@pytest.fixture(scope="module")
def served(lab_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with labs.temporary(lab_dir, "test-survival-") as lab:
        yield prepare(lab, tmp_path_factory.mktemp("survival"))


@pytest.fixture
def installation(served: Installation) -> Iterator[Installation]:
    yield served
    served.remove_everything()
    assert served.leftovers() == ""


def qemu_pids(installation: Installation) -> set[str]:
    return set(installation.lab.run(["sh", "-c", "pidof qemu-system-x86_64 || true"]).text.split())


def assert_whole(installation: Installation) -> None:
    """The system is up, works, and nothing on the host is left over."""
    installation.await_idle()
    assert installation.show("pair")["summary"]["state"] == "up"
    assert installation.exec("pair/b", "wget", "-qO-", "http://a/").out == "hello\n"
    assert installation.forkbed("gc", "--dry-run", "--json").json()["items"] == []


@pytest.mark.parametrize(
    "boundary", ["network lan: begun", "define a: done", "start a: begun", "start a: done", "ready b: done"]
)
def test_a_controller_killed_at_a_step_boundary_finishes_later(
    installation: Installation, boundary: str
) -> None:
    installation.kill_serve()
    installation.serve(kill_at=boundary)
    manifest = installation.directory / "system.yaml"
    manifest.write_text(PAIR)
    client = installation.start("up", manifest)
    installation.await_that(lambda: not installation.serves(), f"the server dies at `{boundary}`")
    running = qemu_pids(installation)
    time.sleep(0.5)
    assert qemu_pids(installation) == running, "guests run on without the controller"
    installation.serve()
    assert client.wait(120) == 0, "the command waits for the server and sees the end"
    assert running <= qemu_pids(installation), "no guest was started anew"
    assert_whole(installation)


def test_controllers_killed_at_random_moments(installation: Installation) -> None:
    moments = random.Random(20261121)
    manifest = installation.directory / "system.yaml"
    manifest.write_text(PAIR)
    client = installation.start("up", manifest)
    for _ in range(4):
        time.sleep(moments.uniform(0.2, 2.5))
        installation.kill_serve()
        installation.serve()
    assert client.wait(120) == 0, installation.said()
    assert_whole(installation)


def test_a_down_survives_the_controllers_death(installation: Installation) -> None:
    installation.up(PAIR)
    installation.kill_serve()
    installation.serve(kill_at="stop b: done")
    client = installation.start("down", "pair", "--delete")
    installation.await_that(lambda: not installation.serves(), "the server dies")
    installation.serve()
    assert client.wait(120) == 0, installation.said()
    assert installation.leftovers() == ""


def test_libvirtd_dies_while_a_system_comes_up(installation: Installation) -> None:
    manifest = installation.directory / "system.yaml"
    manifest.write_text(PAIR)
    client = installation.start("up", manifest)
    installation.await_that(lambda: qemu_pids(installation), "the first guest runs")
    running = qemu_pids(installation)
    installation.lab.run(["sh", "-c", "kill -9 $(pidof libvirtd)"])
    assert running <= qemu_pids(installation)
    assert client.wait(180) == 0, installation.said()
    assert_whole(installation)


def test_a_guest_whose_qemu_dies_comes_back(installation: Installation) -> None:
    installation.up(PAIR)
    boots = [m["id"] for m in installation.show("pair")["machines"]]
    victim = qemu_pids(installation).pop()
    installation.lab.run(["kill", "-9", victim])
    installation.await_that(lambda: len(qemu_pids(installation) - {victim}) == 2, "it is started again")
    installation.await_that(
        lambda: installation.show("pair")["summary"]["state"] == "up", "all is well again"
    )
    assert [m["id"] for m in installation.show("pair")["machines"]] == boots
    assert_whole(installation)
    kinds = {event["kind"] for event in installation.forkbed("events", "--json").json()}
    assert "machine.crashed" in kinds


def test_two_at_once_and_changes_of_mind(installation: Installation) -> None:
    manifest = installation.directory / "system.yaml"
    manifest.write_text(PAIR)
    client = installation.start("up", manifest)
    installation.await_that(lambda: qemu_pids(installation), "the first guest runs")
    second = installation.forkbed("up", manifest, status=5)
    assert "operations cancel" in second.err
    installation.forkbed("down", "pair")
    assert client.wait(60) != 0, "the `up` that was cut off says so"
    assert qemu_pids(installation) == set()
    client = installation.start("up", manifest)
    installation.await_that(lambda: qemu_pids(installation), "the first guest runs")
    running = installation.forkbed("operations", "list", "--json").json()[0]["id"]
    installation.forkbed("operations", "cancel", running)
    assert client.wait(60) != 0
    time.sleep(12)  # longer than the supervisor's rounds
    assert len(qemu_pids(installation)) == 1, "nobody goes on behind the person's back"
    installation.up(PAIR)
    assert_whole(installation)


def test_a_host_that_was_rebooted_brings_everything_back(
    lab_dir: Path, tmp_path: Path, served: Installation
) -> None:
    name = f"test-reboot-{served.lab.name.rpartition('-')[2]}"
    lab = labs.up(lab_dir, name, bound=True)
    try:
        installation = prepare(lab, tmp_path)
        installation.up(PAIR + "    restart: never\n")
        installation.exec("pair/a", "sh", "-c", "echo precious > /data/file; sync")
        labs.down(lab_dir, name, keep_state=True)
        lab = labs.up(lab_dir, name, bound=True)
        installation = Installation(lab, tmp_path)
        installation.serve()
        installation.await_that(lambda: installation.machine("pair", "a")["ready"], "a comes back")
        installation.await_idle()
        assert installation.exec("pair/a", "cat", "/data/file").out == "precious\n"
        assert installation.machine("pair", "b")["power"] == "off", "`restart: never` stays down"
    finally:
        labs.down(lab_dir, name)
