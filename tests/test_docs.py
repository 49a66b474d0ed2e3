"""The pages: every link and every path that they name exists, and each page of docs/ can be reached from the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *DOCS]
CODE = ROOT / "src" / "recalign"
ROOMS = "|".join(sorted(path.name for path in CODE.iterdir() if path.is_dir() and path.name != "__pycache__"))

LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w./<>-])(?:conf|benchmarks|src|tests|docs)/[\w./<>*{}-]*")
MODULE = re.compile(rf"(?<![\w./-])((?:{ROOMS})/[\w/]+\.py)")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def links(page: Path) -> list[str]:
    """Relative links of a page, without those to the web."""
    return [link for link in LINK.findall(page.read_text()) if not link.startswith(("http:", "https:", "mailto:"))]


def anchors(page: Path) -> set[str]:
    """Headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path):
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_path_that_a_page_names_exists(page: Path):
    text = page.read_text()
    named = {path.rstrip(".") for path in PATH.findall(text) if not re.search(r"[<*{]", path)}  # no placeholders
    missing = {path for path in named if not (ROOT / path).exists()}
    missing |= {path for path in MODULE.findall(text) if not (CODE / path).exists()}
    assert not missing


def test_every_page_can_be_reached_from_the_readme():
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop().resolve()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        ahead += [page.parent / link.partition("#")[0] for link in links(page) if not link.startswith("#")]
    assert {name(page) for page in DOCS} <= {name(page) for page in reached}
