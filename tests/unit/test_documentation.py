"""What the papers point to is there: files, headings; and every page of the documentation is reached by a link."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAPERS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
_CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The file and the heading (or "") of each link of a page to another place in the checkout."""
    for target in _LINK.findall(_CODE.sub("", page.read_text())):
        if not re.match(r"[a-z]+:", target):
            path, _, heading = target.partition("#")
            yield (page.parent / path).resolve() if path else page, heading


def headings(page: Path) -> set[str]:
    """A page's headings as they appear in links."""
    titles = re.findall(r"^#+ (.*)$", _CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_leads_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target.name}#{heading}"
        for page in (*PAPERS, *PAGES)
        for target, heading in links(page)
        if not target.exists() or (heading and heading not in headings(target))
    ]
    assert not broken


def test_every_page_is_linked() -> None:
    linked = {target for page in (*PAPERS, *PAGES) for target, _ in links(page)}
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in linked] == []


def test_no_page_names_this_checkout() -> None:
    if len(ROOT.parts) > 2:  # a checkout directly below / has a name that may well occur
        assert [page.name for page in (*PAPERS, *PAGES) if f"{ROOT}/" in page.read_text()] == []
