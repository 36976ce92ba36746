"""Notes about frozen machines: who may move them on, and whom they concern."""

from __future__ import annotations

import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from forkbed.drivers import liveness
from forkbed.drivers.durable import write_json_durably
from forkbed.drivers.libvirt.pauses import PausedMachine, Pauses, Phase

MACHINE = PausedMachine("99999999-2222-4333-8444-000000000001", runs=True, streams=True, thaw=True)


@pytest.fixture
def pauses(tmp_path: Path) -> Pauses:
    return Pauses(tmp_path / "pauses")


def test_a_note_comes_back_as_it_was_written(pauses: Pauses, tmp_path: Path) -> None:
    written = pauses.write("snapshot s1", [MACHINE], 5.0)
    (read,) = pauses.all()
    assert read.note == written.note
    assert (read.note.machines, read.note.limit_s, read.phase) == ((MACHINE,), 5.0, Phase.STANDBY)
    assert read.note.owner_lives
    assert (tmp_path / "pauses").stat().st_mode & 0o777 == 0o700
    assert written.remove()
    assert pauses.all() == []


def test_only_one_moves_a_note_on(pauses: Pauses) -> None:
    owner = pauses.write("snapshot s1", [MACHINE], 5.0)
    assert owner.move(Phase.FROZEN)
    (guard,) = pauses.all()
    assert guard.phase is Phase.FROZEN
    assert guard.move(Phase.RELEASE)
    assert not owner.move(Phase.STANDBY), "the guard lets them go on: the cut is not to count"
    assert not owner.remove(), "they were let go on: nobody can give them up any more"
    assert guard.remove()


def test_given_up_is_given_up(pauses: Pauses) -> None:
    owner = pauses.write("snapshot s1", [MACHINE], 5.0)
    owner.move(Phase.FROZEN)
    (guard,) = pauses.all()
    assert pauses.concern([MACHINE.uuid])
    assert owner.move(Phase.GIVEN_UP)
    assert not guard.move(Phase.RELEASE)
    assert not pauses.concern([MACHINE.uuid]), "what replaces the machine may be cut"


def test_a_dead_owner_is_known(pauses: Pauses, tmp_path: Path) -> None:
    written = pauses.write("snapshot s1", [MACHINE], 5.0)
    with subprocess.Popen(["sleep", "60"]) as process:
        owner = liveness.identify(process.pid)
        note = replace(written.note, owner=str(owner))
        assert note.owner_lives
        process.kill()
    assert not note.owner_lives
    later = replace(written.note, owner=f"{os.getpid()}:1")
    assert not later.owner_lives, "another process got its number"


def test_notes_of_an_earlier_boot_mean_nothing(pauses: Pauses, tmp_path: Path) -> None:
    note = replace(pauses.write("snapshot s1", [MACHINE], 5.0).note, host_boot="another")
    write_json_durably(tmp_path / "pauses" / "old.frozen", asdict(note))
    assert len(pauses.all()) == 1
    assert not (tmp_path / "pauses" / "old.frozen").exists()


def test_half_a_note_that_a_crash_of_the_host_left_is_none(pauses: Pauses, tmp_path: Path) -> None:
    pauses.write("snapshot s1", [MACHINE], 5.0).remove()
    torn = tmp_path / "pauses" / f"0123456789abcdef.{Phase.FROZEN}"
    torn.touch()
    assert pauses.all() == []
    assert not torn.exists()
