"""Recipes: what is wrong with them, and which of them are the same build."""

from __future__ import annotations

from dataclasses import replace

import pytest

from forkbed.config.problems import ManifestInvalid
from forkbed.config.recipe import parse_recipe
from forkbed.core.images.recipe import KernelFlavour, RecipeFile, RecipeSpec, base_key, disk_key, root_key
from forkbed.ports.images import RecipeBundle

GOOD = """\
version: 1
name: boss
base: debian-12
packages: [postgresql, "psql=15"]
files:
  - {path: /etc/a, source: a.txt, mode: "0755", owner: www-data}
  - {path: /etc/b, content: "b"}
commands:
  - echo 1
  - |
    echo 2
    echo 3
size: 3GiB
kernel: generic
"""


def recipe(text: str, **files: bytes) -> RecipeSpec:
    return parse_recipe(
        RecipeBundle("r.yaml", text, {name.replace("_", "."): data for name, data in files.items()})
    )


def complaints(text: str) -> list[str]:
    with pytest.raises(ManifestInvalid) as caught:
        recipe(text)
    return list(caught.value.details)


def test_a_good_recipe() -> None:
    assert recipe(GOOD, a_txt=b"A") == RecipeSpec(
        name="boss",
        base="debian-12",
        packages=("postgresql", "psql=15"),
        files=(RecipeFile("/etc/a", b"A", 0o755, "www-data:www-data"), RecipeFile("/etc/b", b"b")),
        commands=("echo 1", "echo 2\necho 3\n"),
        size_bytes=3 * 1024**3,
        kernel=KernelFlavour.GENERIC,
    )


def test_everything_wrong_is_told_at_its_place() -> None:
    text = "version: 2\nname: Boss\nbase: deb:IAN\npackages: [a b]\nfiles: [{path: x, content: y}]\ncomands: []\n"
    told = complaints(text)
    assert [line.split(":")[1] for line in told] == ["1", "2", "3", "4", "5", "6"]
    assert "did you mean `commands`?" in told[-1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "version: 1\nname: x\nbase: micro\npackages: [vim]\n",
            "4:1: packages: micro has no package manager",
        ),
        ("version: 1\nname: x\nbase: other\nkernel: cloud\n", "the kernel is that of the base"),
        ("version: 1\nname: x\nbase: micro\nfiles: [{path: /a, source: gone}]\n", "there is no file `gone`"),
        ("version: 1\nname: x\nbase: micro\nfiles: [{path: /a}]\n", "source"),
        ("version: 1\nname: x\nbase: micro\nkernel: tiny\n", "kernel"),
    ],
)
def test_what_contradicts_itself(text: str, words: str) -> None:
    assert any(words in line for line in complaints(text)), complaints(text)


def test_the_same_recipe_under_another_name_is_the_same_build() -> None:
    one = recipe(GOOD, a_txt=b"A")
    assert root_key("base", replace(one, name="other", size_bytes=None)) == root_key("base", one)


@pytest.mark.parametrize(
    "change",
    [
        {"packages": ("postgresql",)},
        {"commands": ()},
        {"files": ()},
        {"files": (RecipeFile("/etc/a", b"B", 0o755, "www-data:www-data"), RecipeFile("/etc/b", b"b"))},
        {"files": (RecipeFile("/etc/a", b"A", 0o644, "www-data:www-data"), RecipeFile("/etc/b", b"b"))},
    ],
)
def test_every_difference_in_the_root_file_system_is_another_build(change: dict[str, object]) -> None:
    one = recipe(GOOD, a_txt=b"A")
    assert root_key("base", replace(one, **change)) != root_key("base", one)  # type: ignore[arg-type]


def test_keys_follow_base_kernel_builder_and_size() -> None:
    plain = RecipeSpec("x", "micro")
    assert root_key("base", plain) == "base"  # nothing added: the base itself
    cloud, generic = KernelFlavour.CLOUD, KernelFlavour.GENERIC
    keys = {base_key("micro", cloud, "1"), base_key("micro", generic, "1"), base_key("micro", cloud, "2")}
    keys |= {disk_key("r", 1, "1"), disk_key("r", 2, "1"), disk_key("r", 1, "2"), disk_key("q", 1, "1")}
    assert len(keys) == 7
