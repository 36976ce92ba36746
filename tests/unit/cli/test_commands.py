"""Every command that answers once, against the real server on a controller in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.cli.main import COMMANDS, main
from forkbed.core.operations.records import OperationStatus
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.engine.requests import PowerAction, UpOptions
from tests.unit.api.fake import FakeController
from tests.unit.cli.conftest import Cli

MANIFEST = """\
version: 1
system: boss-ops
machines:
  boss:
    image: boss
    files:
      - path: /etc/app.conf
        source: app.conf
    secrets:
      - path: /etc/key
        source: key
"""


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    directory = tmp_path / "manifest"
    directory.mkdir()
    (directory / "app.conf").write_bytes(b"\x00conf")
    (directory / "system.yaml").write_text(MANIFEST)
    return str(directory / "system.yaml")


def test_plan_is_like_a_diff(cli: Cli, manifest: str) -> None:
    answer = cli("plan", manifest)
    assert answer.status == 0
    assert answer.out.splitlines() == [
        "system boss-ops, revision 4 (new)",
        "+ machine ops",
        "    + memory: 256 MiB",
        "~ machine boss  [needs restart]",
        "    ~ memory: 256 MiB -> 512 MiB",
        "- machine old  [needs destroy]",
        "    loses old/root (2 GiB)",
    ]
    assert "refused: machine boss: memory needs a restart; add --restart" in answer.err
    assert "1 to make, 1 to change, 1 to remove; 4 steps" in answer.err


def test_a_manifest_is_sent_with_the_files_that_are_there(
    cli: Cli, controller: FakeController, manifest: str
) -> None:
    answer = cli("plan", manifest, "--set", "a=1", "--set", "b=x=y", "--restart", "--destroy", "boss/data")
    assert answer.status == 0
    bundle = ManifestBundle(manifest, MANIFEST, {"app.conf": b"\x00conf"}, {}, {"a": "1", "b": "x=y"})
    assert controller.calls == [("plan", (bundle, UpOptions(True, frozenset({"boss/data"}))))]


def test_a_file_that_cannot_be_read_is_left_to_the_server(
    cli: Cli, controller: FakeController, manifest: str
) -> None:
    # The server tells of it with its line, together with all other errors.
    (Path(manifest).parent / "key").mkdir()
    assert cli("plan", manifest).status == 0
    bundle = ManifestBundle(manifest, MANIFEST, {"app.conf": b"\x00conf"}, {}, {})
    assert controller.calls == [("plan", (bundle, UpOptions()))]


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read: Is a directory"), (b"\xff\xfe\x00", "is no text in UTF-8")]
)
def test_what_is_no_manifest_is_refused(cli: Cli, tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "system.yaml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    answer = cli("plan", str(path))
    assert answer.status == Kind.INVALID.exit_status
    assert answer.err.splitlines()[0] == f"forkbed: {path}: {words}"


def test_the_help_of_schema_has_an_example(cli: Cli) -> None:
    assert "forkbed schema > manifest.schema.json" in cli("schema", "--help").out


def test_every_error_of_a_manifest_is_shown(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("system: broken\n")
    answer = cli("plan", str(path))
    assert answer.status == Kind.INVALID.exit_status
    assert answer.out == ""
    assert answer.err.splitlines() == [
        f"forkbed: {path}: 2 errors in the manifest",
        f"  {path}:3:5: machines.boss.cpu: unknown key; did you mean cpus?",
        f"  {path}:3:5: machines.boss.cpu: unknown key; did you mean cpus?",
        "what to do: correct them and try again",
    ]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("up", "/nowhere/system.yaml"), 3),
        (("up",), 2),
        (("up", "x", "y"), 2),
        (("up", "x", "--set", "novalue"), 2),
        (("frobnicate",), 2),
        (("list", "--bad"), 2),
        (("up", "--bad"), 2),
        (("copy", "--bad", "boss-ops/boss:x"), 2),
        (("show", "Not A Name"), 2),
        (("show", "none"), 3),
        (("operations", "show", "none"), 3),
        (("image", "show", "none"), 3),
        (("image", "import", "/nowhere", "--name", "x"), 3),
        (("image", "remove", "boss:dev"), 4),
        (("exec", "boss-ops/boss"), 2),
        (("exec", "boss-ops/none", "--", "true"), 3),
        (("console", "boss-ops"), 2),
        (("copy", "a", "b"), 2),
        (("copy", "/nowhere", "boss-ops/boss:/x"), 3),
        (("completion", "tcsh"), 2),
    ],
)
def test_failures_have_the_status_of_their_kind_and_say_what_to_do(
    cli: Cli, words: tuple[str, ...], status: int
) -> None:
    answer = cli(*words)
    assert answer.status == status
    assert answer.out == ""
    assert answer.err.startswith("forkbed: ")


@pytest.mark.parametrize("kind", list(Kind))
def test_an_error_for_programs_is_a_problem_document(
    cli: Cli, controller: FakeController, kind: Kind
) -> None:
    controller.error = OperationalError(kind, "machine a/b", "no", "do this", details=("x",))
    answer = cli("list", "--json")
    assert answer.status == kind.exit_status
    assert answer.out == ""
    document = json.loads(answer.err)
    assert (document["kind"], document["remedy"], document["details"]) == (kind, "do this", ["x"])


def test_up_waits_and_reports(cli: Cli, controller: FakeController, manifest: str) -> None:
    answer = cli("up", manifest, "--if-revision", "3")
    assert answer.status == 0
    assert answer.out == ""
    assert "up boss-ops: done" in answer.err
    assert cli("up", manifest, "--if-revision", "2").status == Kind.CONFLICT.exit_status


def test_up_without_waiting_prints_the_operation(cli: Cli, controller: FakeController, manifest: str) -> None:
    controller.auto_succeed = False
    assert cli("up", manifest, "--no-wait").out == "op1\n"
    assert json.loads(cli("up", manifest, "--no-wait", "--json").out)["status"] == "running"


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (("down", "boss-ops"), ("down", False)),
        (("down", "boss-ops", "--delete"), ("down", True)),
        (("start", "boss-ops"), ("power", ((), PowerAction.START, False))),
        (("stop", "boss-ops/boss", "--force"), ("power", (("boss",), PowerAction.STOP, True))),
        (("restart", "boss-ops/boss"), ("power", (("boss",), PowerAction.RESTART, False))),
        (("pause", "boss-ops"), ("power", ((), PowerAction.PAUSE, False))),
        (("resume", "boss-ops"), ("power", ((), PowerAction.RESUME, False))),
        (("image", "tag", "boss:dev", "boss:production"), ("image_tag", ("boss:dev", "boss:production"))),
    ],
)
def test_what_is_asked_arrives(
    cli: Cli, controller: FakeController, words: tuple[str, ...], call: tuple[str, object]
) -> None:
    assert cli(*words).status == 0
    assert controller.calls == [call]


def test_list_show_history(cli: Cli) -> None:
    listed = cli("list").out.splitlines()
    assert listed[0].split() == ["SYSTEM", "STATE", "READY", "REVISION", "CHANGED", "OPERATION"]
    assert listed[1].split()[:4] == ["boss-ops", "up", "1/1", "3"]
    shown = cli("show", "boss-ops").out
    for part in ("boss-ops  up  revision 3  team=a", "10.0.0.2", "127.0.0.1:8080 -> 80/tcp", "fbt3stabcd"):
        assert part in shown
    assert "root ran `forkbed up system.yaml`" in shown
    assert cli("show", "boss-ops", "--revision", "2").out == "version: 1\nsystem: boss-ops # revision 2\n"
    assert "machine boss: memory 128 MiB -> 256 MiB" in cli("history", "boss-ops").out


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("show", "boss-ops"),
        ("history", "boss-ops"),
        ("operations",),
        ("operations", "list", "--active"),
        ("events",),
        ("image", "list"),
        ("image", "show", "boss"),
        ("image", "history", "boss"),
        ("gc",),
        ("gc", "--dry-run"),
        ("version",),
        ("down", "boss-ops"),
    ],
)
def test_json_is_one_document(cli: Cli, words: tuple[str, ...]) -> None:
    answer = cli(*words, "--json")
    assert answer.status == 0
    assert isinstance(json.loads(answer.out), (dict, list))


def test_operations(cli: Cli, controller: FakeController, manifest: str) -> None:
    controller.auto_succeed = False
    cli("up", manifest, "--no-wait")
    assert cli("operations", "--active").out.splitlines()[1].split()[:4] == [
        "op1",
        "up",
        "boss-ops",
        "running",
    ]
    shown = cli("operations", "show", "op1").out
    assert "asked by root (uid 0)" in shown
    assert f"forkbed up {manifest} --no-wait" in shown
    assert "cancelled" in cli("operations", "cancel", "op1").err
    followed = cli("operations", "show", "op1", "--follow")
    assert followed.status == Kind.CONFLICT.exit_status
    assert cli("operations", "list", "--active").err.startswith("there are no operations")


def test_events(cli: Cli, controller: FakeController) -> None:
    controller.happen("machine.crashed", reason="panic\x1b[2J")
    controller.happen("two", system="other")
    lines = cli("events").out.splitlines()
    assert "machine.crashed  boss-ops/boss  reason=panic\\x1b[2J" in lines[0]
    assert len(cli("events", "--system", "other").out.splitlines()) == 1
    assert len(cli("events", "--tail", "1").out.splitlines()) == 1
    assert cli("events", "--tail", "0").out == ""


def test_images(cli: Cli, controller: FakeController, tmp_path: Path) -> None:
    assert "boss:dev" in cli("image", "list").out
    assert "recipe: boss.yaml" in cli("image", "show", "boss:dev").out
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"disk" * 1000)
    assert cli("image", "import", str(disk), "--name", "mine").status == 0
    assert controller.imported == b"disk" * 1000
    target = tmp_path / "out.raw"
    assert cli("image", "export", "boss", str(target), "--format", "raw").status == 0
    assert target.stat().st_size == 3_000_000
    assert cli("image", "export", "none", str(tmp_path / "x")).status == 3
    assert sorted(path.name for path in tmp_path.glob("*.part")) == []
    recipe = tmp_path / "boss.yaml"
    recipe.write_text("version: 1\nname: boss\nbase: micro\nfiles:\n  - {path: /x, source: disk.raw}\n")
    assert cli("image", "build", str(recipe)).status == 0
    name, bundle = controller.calls[-1]
    assert name == "image_build"
    assert bundle.files == {"disk.raw": b"disk" * 1000}  # type: ignore[attr-defined]


def test_gc(cli: Cli) -> None:
    answer = cli("gc", "--dry-run")
    assert "root-x1" in answer.out
    assert "would be removed" in answer.err
    assert "removed" in cli("gc").err


def test_version(cli: Cli, tmp_path: Path) -> None:
    assert "server installation: t3st" in cli("version").out
    alone = cli("version", "--socket", str(tmp_path / "none"))
    assert alone.status == 0
    assert alone.out.startswith("forkbed 0.")


def test_logs(cli: Cli, controller: FakeController) -> None:
    controller.log = b"one\ntwo\nthree\n"
    assert cli("logs", "boss-ops/boss").out == "one\ntwo\nthree\n"
    assert cli("logs", "boss-ops/boss", "--tail", "2").out == "two\nthree\n"
    assert cli("logs", "boss-ops/boss", "--tail", "0").out == ""


def test_without_a_server_it_says_how_to_start_one(cli: Cli, tmp_path: Path) -> None:
    answer = cli("list", "--socket", str(tmp_path / "none"))
    assert answer.status == Kind.UNREACHABLE.exit_status
    assert "forkbed serve --detach" in answer.err
    assert "forkbed lab exec --name nobodys" in cli("list", "--lab", "nobodys").err


_OWN = sorted(COMMANDS.keys() - {"lab", "host", "doctor", "schema"})


@pytest.mark.parametrize("command", _OWN)
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    subcommands = {"image": ["build", "export", "tag"], "operations": ["list", "show", "cancel"]}
    for words in [[command, name] for name in subcommands.get(command, [])] or [[command]]:
        assert main([*words, "--help"]) == 0
        shown = capsys.readouterr().out
        assert f" forkbed {' '.join(words)}" in shown.partition("Usage:")[2].partition("\n")[2]
        assert "--socket PATH" in shown


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, (summary, _) in COMMANDS.items():
        assert f" {name} " in shown, summary
    assert "Exit status" in shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sh"], ["show"]),
        (["show", ""], ["boss-ops"]),
        (["exec", "b"], ["boss-ops/boss"]),
        (["stop", ""], ["boss-ops", "boss-ops/boss"]),
        (["copy", ""], ["__files__", "boss-ops/boss:"]),
        (["up", ""], ["__files__"]),
        (["up", "--re"], ["--restart"]),
        (["image", "ex"], ["export"]),
        (["image", "export", "boss"], ["boss:dev"]),
        (["image", "export", "--for"], ["--format"]),
        (["operations", "c"], ["cancel"]),
        (["completion", ""], ["bash", "fish", "zsh"]),
        (["show", "boss-ops", ""], []),
        (["exec", "x", "--", ""], ["__files__"]),
        (["--socket", "/nowhere", "show", ""], []),
    ],
)
def test_completion(cli: Cli, words: list[str], expected: list[str]) -> None:
    answer = cli("__complete", *words)
    assert answer.status == 0
    assert answer.out.split() == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_ask_the_command(cli: Cli, shell: str) -> None:
    assert "forkbed __complete" in cli("completion", shell).out


def test_a_failed_operation_fails_the_command(cli: Cli, controller: FakeController) -> None:
    controller.auto_succeed = False
    started = cli("down", "boss-ops", "--no-wait").out.strip()
    error = OperationalError(Kind.FAULT, "machine boss-ops/boss", "did not start", details=("qemu: no",))
    controller.advance(started, status=OperationStatus.FAILED, error=error)
    answer = cli("operations", "show", started, "--follow")
    assert answer.status == Kind.FAULT.exit_status
    assert "forkbed: machine boss-ops/boss: did not start\n  qemu: no" in answer.err
