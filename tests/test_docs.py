"""The pages: links, paths and figures that they name exist, pages stay short, and the site has every page."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from recalign.files import digest

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
STUDIES = sorted((ROOT / "benchmarks").rglob("README.md"))
BESIDE = [ROOT / "conf/README.md", ROOT / "data/README.md"]
PAGES = [
    ROOT / "README.md",
    ROOT / "ROADMAP.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *BESIDE,
    *DOCS,
    *STUDIES,
]
CODE = ROOT / "src" / "recalign"
PACKAGES = "|".join(sorted(path.name for path in CODE.iterdir() if path.is_dir() and path.name != "__pycache__"))

LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(
    r"(?<![\w./<>-])(?:conf|benchmarks|src|tests|docs)/[\w./<>*{}-]*"
    r"(?![^`\n]*`\s+at\s+[0-9a-f]{7}\b)"  # not a command that an earlier commit has
)
MODULE = re.compile(rf"(?<![\w./-])((?:{PACKAGES})/[\w/]+\.py)")


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


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "CHANGELOG"], ids=name)
def test_every_path_that_a_page_names_exists(page: Path):
    text = page.read_text()
    named = {path.rstrip(".") for path in PATH.findall(text) if not re.search(r"[<*{]", path)}  # no placeholders
    missing = {path for path in named if not (ROOT / path).exists()}
    missing |= {path for path in MODULE.findall(text) if not (CODE / path).exists()}
    assert not missing


@pytest.mark.parametrize("page", DOCS, ids=name)
def test_github_reads_the_formulas_that_the_site_does(page: Path):
    """GitHub unescapes punctuation in formulas before it sets them."""
    text = re.sub(r"```.*?```|`[^`\n]*`|^    .*$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    formulas = re.findall(r"\$+([^$]+)\$+", text)
    assert [formula for formula in formulas if re.search(r"\\[^\w\s]", formula)] == []


def test_every_page_can_be_reached_from_the_readme():
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop().resolve()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        ahead += [page.parent / link.partition("#")[0] for link in links(page) if not link.startswith("#")]
    assert {name(page) for page in DOCS} <= {name(page) for page in reached}


KINDS = {"Home": 300, "Tutorial": 1_050, "How-to": 950, "Reference": 1_100, "Explanation": 1_000, "Evidence": 250}
"""Sections of the site's menu, and how many words a page of each has at most."""
MOST_WORDS = {
    "README.md": 700,
    "CHANGELOG.md": 800,
    "CONTRIBUTING.md": 1_250,
    "SECURITY.md": 800,
    "ROADMAP.md": 300,
    "conf/README.md": 650,
    "docs/concepts.md": 600,
    "docs/decision.md": 710,
    "docs/reward.md": 900,
    "docs/promises.md": 700,
}
"""Pages with a ceiling of their own. What is new in words replaces something: raise none."""
MENU = {next(iter(entry)): entry for entry in yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]}


def leaves(entry: object) -> list[object]:
    """The files that an entry of the menu names."""
    if isinstance(entry, dict | list):
        return [leaf for part in (entry.values() if isinstance(entry, dict) else entry) for leaf in leaves(part)]
    return [entry]


OF_KIND = {f"docs/{page}": most for kind, most in KINDS.items() for page in leaves(MENU[kind]) if "/" not in str(page)}


def words(*pages: Path) -> int:
    """Words of pages, those of code blocks and tables too, without comments (settings of generated tables)."""
    texts = [re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.DOTALL) for page in pages]
    return sum(bool(re.search(r"\w", word)) for text in texts for word in text.split())


@pytest.mark.parametrize(("page", "most"), (OF_KIND | MOST_WORDS).items(), ids=OF_KIND | MOST_WORDS)
def test_a_page_is_read_in_a_few_minutes(page: str, most: int):
    assert words(ROOT / page) <= most


def test_all_pages_together_are_read_in_two_hours():
    assert words(*DOCS) <= 23_000
    assert words(*STUDIES) <= 8_000
    assert words(*DOCS, *STUDIES, *ROOT.glob("*.md"), *BESIDE) <= 36_000


def test_every_study_says_what_it_asked_and_found():
    assert {page.parent for page in STUDIES} >= {rows.parent for rows in (ROOT / "benchmarks").rglob("*.csv")}


def test_the_sites_menu_has_every_page_and_notebook():
    assert KINDS.keys() == MENU.keys()
    listed = {str(page) for entry in MENU.values() for page in leaves(entry)}
    pages = {*DOCS, *(ROOT / "docs" / "notebooks").glob("*.ipynb")}
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in pages}


def test_every_method_has_a_line_in_the_table_of_methods():
    table = (ROOT / "docs" / "choose-a-method.md").read_text()
    assert all(f"`{path.stem}`" in table for path in (ROOT / "conf" / "methods").glob("*.yaml"))


def benchmark(script: str) -> ModuleType:
    """A module of benchmarks/, imported."""
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module(f"benchmarks.{script}")
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def drawn() -> ModuleType:
    return benchmark("pictures")


def test_the_readmes_table_is_that_of_the_results(drawn: ModuleType):
    remedy = "run python -m benchmarks.pictures and copy what it prints"
    assert drawn.markdown(drawn.levels(drawn.ML_100K)) in (ROOT / "README.md").read_text(), remedy


def test_a_picture_of_a_log_is_that_of_the_results(drawn: ModuleType):
    for name, (_, logs, value) in drawn.LOGS.items():
        picture = (ROOT / "docs" / "pictures" / f"{name}.svg").read_text()
        assert digest(drawn.gains(logs, value).to_dicts()) in picture, "run python -m benchmarks.pictures"


def test_the_tables_of_studies_are_those_of_their_rows():
    assert benchmark("tables").stale() == [], "run python -m benchmarks.tables"
