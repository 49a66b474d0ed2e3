"""The tutorial: commands of docs/own-log.md and docs/serve-it.md, in an empty folder, print what the pages show.

The rule: ``...`` stands for lines left out. What is read and counted (simulate, init, check) is compared whole. What is
trained depends on the machine, so of the lines that the other commands print only the words before their first number
or sign are compared; and the stages train for one epoch here.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import served
import tiny

ROOT = Path(__file__).parents[2]
DOC, SERVE = ((ROOT / "docs" / page).read_text() for page in ("own-log.md", "serve-it.md"))
FAST = ("--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")
EXACT = ("simulate", "init", "check")


def blocks(page: str) -> list[tuple[str, str]]:
    """Kind and text of a page's blocks of code."""
    return re.findall(r"```(\w+)\n(.*?)```", page, flags=re.DOTALL)


def shown(command: str, page: str = DOC) -> list[str]:
    """The lines that a page shows after the block that begins with a command."""
    found = blocks(page)
    place = next(place for place, (_, text) in enumerate(found) if text.startswith(f"recalign {command}"))
    assert found[place + 1][0] == "text"
    return found[place + 1][1].splitlines()


def compared(line: str, command: str) -> str:
    """What of a line has to be as the page has it."""
    return line.strip() if command in EXACT else " ".join(re.split(r"[\d▲▼±+]", line)[0].split())


def assert_shows(lines: list[str], said: str, command: str) -> None:
    """Every line of the page is printed, in the page's order."""
    printed = iter([compared(line, command) for line in said.splitlines()])
    for line in lines:
        assert line.strip() == "..." or compared(line, command) in printed, line


def run(folder: Path, line: str, *more: str) -> str:
    """What a command of the page prints."""
    said = tiny.recalign(folder, *shlex.split(line, comments=True)[1:], *more)
    assert said.code == 0, said.err
    return said.out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder in which the page has been followed up to its check."""
    folder = tmp_path_factory.mktemp("own [1]")  # no pattern, though it looks like one
    for command in ("simulate", "init"):
        line = next(text for kind, text in blocks(DOC) if kind == "sh" and text.startswith(f"recalign {command}"))
        assert_shows(shown(command), run(folder, line), command)
    yaml = folder / "shop.yaml"
    titles = next(text for kind, text in blocks(DOC) if text.lstrip().startswith("items:"))
    yaml.write_text(re.sub(r"(    time_unit: .*\n)", rf"\1{titles}", yaml.read_text()))
    return folder


def test_the_tables_first_rows_are_those_of_the_file(folder: Path):
    (csv,) = (text for kind, text in blocks(DOC) if kind == "csv")
    assert (folder / "shop.csv").read_text().startswith(csv)


def test_the_lines_that_matter_are_those_of_the_file(folder: Path):
    said = {re.sub(r" +#.*", "", line) for line in (folder / "shop.yaml").read_text().splitlines()}
    assert set(next(text for kind, text in blocks(DOC) if kind == "yaml").splitlines()) <= said


def test_check_says_what_the_page_shows(folder: Path):
    assert_shows(shown("check"), run(folder, "recalign check shop.yaml"), "check")


def test_the_message_that_the_reference_shows_is_the_message(folder: Path):
    page = (ROOT / "docs/formats.md").read_text()
    (csv,) = (text for kind, text in blocks(page) if kind == "csv")
    yaml = (folder / "shop.yaml").read_text().replace("shop.csv", "own-log.csv").replace("name: shop", "name: own-log")
    (folder / "own-log.yaml").write_text(re.sub(r"    items: .*\n", "", yaml))
    (folder / "own-log.csv").write_text(csv.replace("2026-03-04T18:02:11+01:00", "yesterday"))
    said = tiny.recalign(folder, "check", "own-log.yaml")
    assert f"```\n{said.err.removeprefix('recalign check: ').strip()}\n```" in page


@pytest.mark.long
def test_from_a_table_to_a_list_over_http(folder: Path):
    lines = [line for kind, text in blocks(DOC) if kind == "sh" for line in text.splitlines()]
    chain, *recommend = (line for line in lines if re.match(r"recalign (chain|recommend)", line))
    assert_shows(shown("chain"), run(folder, chain, *FAST), "chain")
    for file in re.findall(r"`(runs/shop/\S+)`", DOC):
        assert (folder / file).is_file()
    for line in recommend:
        assert_shows(shown("recommend")[:2], run(folder, line), "recommend")
    pytest.importorskip("fastapi", reason="the server is not installed: pip install 'recalign[serve]'")
    said = run(folder, "recalign export runs/shop/rerank/seed-0")
    assert_shows(shown("export", SERVE), said, "export")
    server = served.started(folder / "runs/shop/rerank/seed-0/bundles")
    try:
        for asked in re.findall(r"-d '(.*?)'", SERVE):
            status, _, answer = server.ask("/recommend", json.loads(asked))
            assert status == 200
            assert len(answer["items"]) == 3
        example = json.loads(next(text for kind, text in blocks(SERVE) if kind == "json"))
        assert example.keys() == answer.keys()
    finally:
        server.process.terminate()
        server.process.communicate(timeout=30)
