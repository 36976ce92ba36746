"""What is special about machines with much memory: a cut must not leave it in small pieces."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.forks.original import Site

NAME = "wide"
MANIFEST = f"""version: 1
system: {NAME}
networks: {{lan: {{subnet: 10.21.0.0/24}}}}
machines:
  a: {{image: micro, memory: 1200MiB}}
"""
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_NEVER = not _HUGE_PAGES.exists() or "[never]" in _HUGE_PAGES.read_text()
_KEPT_KIB = 300 * 1024
_FILL = (
    "mount -t tmpfs -o size=400M tmpfs /mnt && dd if=/dev/urandom of=/mnt/kept bs=1M count=300 2>/dev/null"
)


def huge_kib(site: Site) -> int:
    """How much of the machine's memory is in huge pages."""
    script = f"cat /proc/$(cat /run/libvirt/qemu/*-{NAME}.a.pid)/smaps_rollup"
    lines = site.lab.run(["sh", "-c", script]).text.splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:"))


@pytest.mark.skipif(_NEVER, reason="this host has no huge pages")
def test_huge_pages_are_huge_again_after_a_cut(site: Site) -> None:
    site.up(MANIFEST)
    try:
        site.shell(f"{NAME}/a", _FILL)
        sums = site.checksums(f"{NAME}/a", "/mnt/kept")
        assert huge_kib(site) > _KEPT_KIB
        site.forkbed("fork", NAME, "wider")
        site.await_that(lambda: huge_kib(site) > _KEPT_KIB, "its pages are gathered")
        assert site.checksums(f"{NAME}/a", "/mnt/kept") == sums
        assert site.checksums("wider/a", "/mnt/kept") == sums
        site.forkbed("discard", "wider")
    finally:
        site.forkbed("down", NAME, "--delete")
