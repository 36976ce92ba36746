"""The commands of snapshots and forks, against the real server on a controller in memory."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace

import pytest

from forkbed.base.errors import Kind
from forkbed.cli.branch_view import clock, fork_mark, instant, short_time, tree_rows
from forkbed.core.networks.intents import IntentKind
from forkbed.engine.branch_options import ForkOptions, SnapshotOptions
from forkbed.engine.branching import TreeKind, TreeNode
from tests.unit.api.fake import FakeController
from tests.unit.api.fake_branching import CUT_AT, SNAPSHOT
from tests.unit.cli.conftest import Cli


@pytest.fixture
def fork(cli: Cli, controller: FakeController) -> str:
    assert cli("fork", "boss-ops", "try").status == 0
    controller.calls.clear()
    return "try"


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (("snapshot", "boss-ops"), ("snapshot", SnapshotOptions())),
        (
            ("snapshot", "boss-ops", "s1", "--disks-only", "-m", "why", "--expires", "2h"),
            ("snapshot", SnapshotOptions("s1", True, "why", 7200.0)),
        ),
        (("snapshot-delete", "boss-ops", "before-upgrade"), ("snapshot_delete", "before-upgrade")),
        (("rollback", "boss-ops", "before-upgrade"), ("rollback", "before-upgrade")),
        (("fork", "boss-ops", "try"), ("fork", ForkOptions("try"))),
        (
            ("fork", "boss-ops", "try", "--at", "before-upgrade", "--cold", "--count", "3"),
            ("fork", ForkOptions("try", "before-upgrade", True, 3)),
        ),
        (
            ("fork", "boss-ops", "try", "--expires", "30m", "--message", "note"),
            ("fork", ForkOptions("try", expires_in_s=1800.0, message="note")),
        ),
        (("fold", "boss-ops"), ("fold", "boss-ops")),
    ],
)
def test_what_is_asked_arrives(
    cli: Cli, controller: FakeController, words: tuple[str, ...], call: tuple[str, object]
) -> None:
    assert cli(*words).status == 0
    assert controller.calls == [call]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("snapshot", "none"), 3),
        (("snapshots", "none"), 3),
        (("snapshot", "boss-ops", "--expires", "soon"), 2),
        (("snapshot", "boss-ops", "--expires", "0s"), 2),
        (("snapshot-delete", "boss-ops", "none"), 3),
        (("rollback", "boss-ops", "none"), 3),
        (("rollback", "boss-ops"), 2),
        (("fork", "boss-ops"), 2),
        (("fork", "none", "try"), 3),
        (("fork", "boss-ops", "try", "--count", "many"), 2),
        (("discard", "none"), 3),
        (("discard", "boss-ops"), 4),
        (("tree", "none"), 3),
        (("intents", "none"), 3),
        (("intents", "boss-ops"), 4),
        (("intents", "boss-ops", "--follow"), 4),
        (("fold", "none"), 3),
    ],
)
def test_failures_have_the_status_of_their_kind(cli: Cli, words: tuple[str, ...], status: int) -> None:
    answer = cli(*words)
    assert (answer.status, answer.out) == (status, "")
    assert answer.err.startswith("forkbed: ")


def test_a_snapshot_says_what_it_cost(cli: Cli) -> None:
    answer = cli("snapshot", "boss-ops")
    assert answer.out == "20261121-140211\n"
    assert f"live snapshot of {instant(CUT_AT)}, 300 MiB" in answer.err
    assert "  boss stood still for 45 ms: its memory was written while it ran on" in answer.err
    assert "  ops did not run (off)" in answer.err
    assert "forkbed rollback boss-ops 20261121-140211" in answer.err


def test_snapshots_are_a_table(cli: Cli, controller: FakeController) -> None:
    controller.kept.append(
        replace(SNAPSHOT, name="own", automatic=True, status="removing", message="", forks=("try", "again"))
    )
    first, second, third = cli("snapshots", "boss-ops").out.splitlines()
    assert first.split("  ")[0] == "SNAPSHOT"
    for part in ("before-upgrade", "live", "300 MiB", "1.2 ms", "as it was\\x1b[2J"):
        assert part in second
    assert "live, automatic, removing" in third
    assert "try, again" in third
    machines = cli("snapshots", "boss-ops", "--machines").out
    assert "background" in machines and "45 ms" in machines and "270 MiB" in machines
    controller.kept.clear()
    assert "forkbed snapshot boss-ops" in cli("snapshots", "boss-ops").err


def test_a_rollback_says_what_was_kept(cli: Cli) -> None:
    said = cli("rollback", "boss-ops", "before-upgrade").err
    assert "what it replaced is kept as the snapshot before-rollback-1" in said
    assert "forkbed rollback boss-ops before-rollback-1" in said


def test_a_fork_says_what_it_is_and_what_next(cli: Cli) -> None:
    answer = cli("fork", "boss-ops", "try", "--count", "2")
    assert answer.out == "try-1\ntry-2\n"
    for words in (
        "fork boss-ops: done in 1.2 s",
        f"boss-ops as it was at {instant(CUT_AT)}",
        "  boss stood still for 45 ms",
        "  forkbed ssh try-1/boss",
        "  forkbed discard try-1",
    ):
        assert words in answer.err


def test_the_skew_is_said_of_several_machines(cli: Cli, controller: FakeController) -> None:
    boss = SNAPSHOT.machines[0]
    again = replace(boss, name="db", method="paused", quiesced=True, note="this QEMU has none")
    controller.kept[0] = replace(SNAPSHOT, name="both", machines=(boss, again))
    said = cli("snapshot", "boss-ops", "both").err
    assert "  db stood still for 45 ms: until its memory was written" in said
    assert "    its file systems were quiesced by its agent" in said
    assert "    this QEMU has none" in said
    assert "  from the first one's freeze to the last one's: 1.2 ms" in said


def test_without_waiting_the_operation_is_printed(cli: Cli, controller: FakeController) -> None:
    controller.auto_succeed = False
    answer = cli("fork", "boss-ops", "try", "--no-wait")
    assert answer.out == "op1\n"
    assert "forkbed ssh" not in answer.err
    assert cli("snapshot", "boss-ops", "--no-wait").out == "op2\n"
    assert json.loads(cli("rollback", "boss-ops", "before-upgrade", "--no-wait", "--json").out)["id"] == "op3"


def test_a_discard_says_what_stays(cli: Cli, controller: FakeController) -> None:
    cli("fork", "boss-ops", "try", "--count", "3")
    assert "nothing of it is kept" in cli("discard", "try-1").err
    controller.kept_for = ("try-3", "again")
    said = cli("discard", "try-2").err
    assert "layers of it are kept for what stands on them: try-3, again" in said


@pytest.mark.parametrize(
    "words",
    [
        ("snapshot", "boss-ops"),
        ("snapshots", "boss-ops"),
        ("snapshot-delete", "boss-ops", "before-upgrade"),
        ("rollback", "boss-ops", "before-upgrade"),
        ("fork", "boss-ops", "again"),
        ("tree",),
        ("intents", "try"),
        ("fold", "boss-ops"),
        ("discard", "try"),
        ("show", "try"),
        ("logs", "try/boss"),
    ],
)
def test_json_is_one_document(cli: Cli, fork: str, words: tuple[str, ...]) -> None:
    answer = cli(*words, "--json")
    assert (answer.status, answer.err) == (0, "")
    assert isinstance(json.loads(answer.out), (dict, list))


_TREE = TreeNode(
    TreeKind.SYSTEM,
    "boss-ops",
    CUT_AT,
    "up",
    2 * 1024**3,
    "",
    children=(
        TreeNode(
            TreeKind.SNAPSHOT,
            "before-upgrade",
            CUT_AT,
            "live",
            300 * 1024**2,
            "as it was\x1b[2J",
            CUT_AT + 60,
            children=(
                TreeNode(
                    TreeKind.FORK,
                    "try-1",
                    CUT_AT,
                    "up",
                    65536,
                    "",
                    children=(TreeNode(TreeKind.FORK, "deep", CUT_AT, "down", 0, ""),),
                ),
            ),
        ),
        TreeNode(TreeKind.FORK, "try-2", CUT_AT, "paused", 4096, "two"),
    ),
)


def test_the_lineage_is_drawn(cli: Cli, controller: FakeController) -> None:
    controller.roots = [_TREE]
    lines = cli("tree").out.splitlines()
    assert [line[: line.index("  ", 12)].rstrip() for line in lines[1:]] == [
        "boss-ops",
        "├─ before-upgrade",
        "│  └─ try-1",
        "│     └─ deep",
        "└─ try-2",
    ]
    assert (
        len({line.index(word) for line, word in zip(lines[2:], ("snapshot", "fork", "fork"), strict=False)})
        == 1
    )
    for part in ("live", "300 MiB", "as it was\\x1b[2J", clock(CUT_AT + 60)):
        assert part in lines[2]


def test_the_lineage_is_drawn_in_ascii_where_nothing_else_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Narrow:
        encoding = "ascii"

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdout", Narrow())
    assert [row[0] for row in tree_rows([_TREE])] == [
        "boss-ops",
        "|- before-upgrade",
        "|  `- try-1",
        "|     `- deep",
        "`- try-2",
    ]


def test_intents_are_told_in_words(cli: Cli, controller: FakeController, fork: str) -> None:
    controller.attempt(IntentKind.DNS, port=53, name="example.org", type="A", answer="203.0.113.7")
    controller.attempt(IntentKind.HTTP, method="GET", host="example.org", path="/path?q")
    controller.attempt(IntentKind.HTTP, port=8080, host="api.example", method="POST", path="/\x1b[2J")
    controller.attempt(IntentKind.HTTP, port=3128, host="proxy", method="CONNECT", path="example.org:443")
    controller.attempt(IntentKind.SMTP, port=25, sender="a@x", recipients="b@y, c@y", subject="hello")
    controller.attempt(IntentKind.TLS, port=443, host="example.org")
    controller.attempt(IntentKind.TCP, port=5432)
    controller.attempt(IntentKind.DROPPED, count="12")
    lines = cli("intents", fork).out.splitlines()
    assert lines[0].split() == ["#", "WHEN", "MACHINE", "NETWORK", "TRIED"]
    assert [line[line.index("control") + 9 :] for line in lines[1:]] == [
        "dns A example.org -> 203.0.113.7",
        "http GET example.org/path?q",
        "http POST api.example:8080/\\x1b[2J",
        "http CONNECT example.org:443",
        "smtp from a@x to b@y, c@y: hello (by 203.0.113.7:25)",
        "tls example.org:443 (203.0.113.7)",
        "tcp 203.0.113.7:5432: hi",
        "12 more tries that were not written down",
    ]
    assert len(cli("intents", fork, "--after", "5").out.splitlines()) == 4
    assert len(cli("intents", fork, "--tail", "1").out.splitlines()) == 2
    assert [
        view["intent"]["kind"] for view in json.loads(cli("intents", fork, "--tail", "2", "--json").out)
    ] == [
        "tcp",
        "dropped",
    ]


def test_a_fork_without_intents_says_so(cli: Cli, fork: str) -> None:
    answer = cli("intents", fork)
    assert (answer.out, answer.err) == ("", "try has not tried anything\n")


def test_a_fork_is_marked_in_the_list_and_when_shown(cli: Cli, controller: FakeController, fork: str) -> None:
    controller.fork_summaries[fork] = replace(
        controller.fork_summaries[fork], snapshot="before-upgrade", expires_at=CUT_AT + 3600
    )
    headings, original, copy = cli("list").out.splitlines()
    assert headings.split()[4:7] == ["FORK", "OF", "EXPIRES"]
    assert "boss-ops" not in original[10:]
    assert "boss-ops" in copy and clock(CUT_AT + 3600) in copy
    shown = cli("show", fork).out
    assert f"fork of boss-ops, cut {clock(CUT_AT)} (snapshot before-upgrade); isolated; expires " in shown
    assert "fork of" not in cli("show", "boss-ops").out


def test_times_are_as_short_as_they_can_be() -> None:
    now = time.time()
    assert len(clock(now)) == len("14:02:11")
    assert len(clock(now - 7 * 86400)) == len("2026-11-21 14:02:11")
    assert instant(86400.0456).endswith(":00.045")
    assert [short_time(s) for s in (0, 0.00123, 0.0452, 0.9, 3.4, 80)] == [
        "0 ms",
        "1.2 ms",
        "45 ms",
        "900 ms",
        "3.4 s",
        "1 min 20 s",
    ]


def test_only_a_fork_says_that_it_is_one(controller: FakeController) -> None:
    (original,) = controller.systems()
    assert fork_mark(original) == ""
    fork = replace(original, fork_of="boss-ops", cut_at=time.time())
    assert fork_mark(fork) == f"fork of boss-ops, cut {clock(time.time())}; isolated"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["snap"], ["snapshot", "snapshot-delete", "snapshots"]),
        (["fork", ""], ["boss-ops", "try"]),
        (["discard", ""], ["try"]),
        (["intents", ""], ["try"]),
        (["rollback", "boss-ops", ""], ["before-upgrade"]),
        (["snapshot-delete", "boss-ops", "b"], ["before-upgrade"]),
        (["fork", "boss-ops", "x", "--at", ""], ["before-upgrade"]),
        (["fork", "boss-ops", "x", "--co"], ["--cold", "--count"]),
        (["ssh", "t"], ["try/boss"]),
        (["tree", "b"], ["boss-ops"]),
        (["snapshot", "boss-ops", ""], []),
    ],
)
def test_completion(cli: Cli, fork: str, words: list[str], expected: list[str]) -> None:
    assert cli("__complete", *words).out.split() == expected


def test_what_no_system_has_is_not_found(cli: Cli) -> None:
    assert cli("snapshots", "Not A Name").status == Kind.INVALID.exit_status
