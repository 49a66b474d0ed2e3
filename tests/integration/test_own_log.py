"""docs/own-log.md: its commands, run as they stand there on its own example, made a little longer."""

from __future__ import annotations

import random
import re
import shlex
from pathlib import Path

import polars as pl
import pytest
import tiny
import yaml

DOC = (Path(__file__).parents[2] / "docs/own-log.md").read_text()
BLOCKS = {kind: re.findall(rf"```{kind}\n(.*?)```", DOC, flags=re.DOTALL) for kind in ("csv", "yaml", "sh")}
FAST = ("--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")


def longer(example: str) -> str:
    """The example's rows, and those of 40 customers more with ten events each."""
    draw = random.Random(0)
    products = ['"lamp, green"', "kettle", "chair", '"the ""big"" one"', "Küche", *(f"p-{n}" for n in range(15))]
    rows = []
    for customer in range(40):
        for day, product in enumerate(draw.sample(products, 10), start=1):
            stars = draw.choice(["", *"12345"])
            rows.append(f"c-{customer},{product},2026-03-{day:02d}T{draw.randint(0, 23):02d}:15:00+01:00,{stars}")
    return example + "\n".join(rows) + "\n"


def words(command: str) -> list[str]:
    """What follows ``recalign`` on a line of the page."""
    return shlex.split(command)[1:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder in which the page has been followed up to its first command."""
    folder = tmp_path_factory.mktemp("own [1]")  # no pattern, though it looks like one
    (folder / "own-log.csv").write_text(longer(BLOCKS["csv"][0]))
    said = tiny.recalign(folder, *words(BLOCKS["sh"][0]))
    assert said.code == 0, said.err
    return folder


def test_the_lines_that_matter_are_those_of_the_file(folder: Path):
    def pairs(node: dict, prefix: str = "") -> set[tuple[str, str]]:
        inner = [pairs(v, f"{prefix}{k}.") if isinstance(v, dict) else {(prefix + k, str(v))} for k, v in node.items()]
        return set().union(*inner)

    assert pairs(yaml.safe_load(BLOCKS["yaml"][0])) <= pairs(yaml.safe_load((folder / "own-log.yaml").read_text()))


@pytest.mark.slow
def test_from_a_table_to_a_report(folder: Path):
    _, check, chain, recommend = (block.strip() for block in BLOCKS["sh"])
    said = tiny.recalign(folder, *words(check))
    assert said.code == 0
    assert "405 rows read from own-log.csv" in said.out
    said = tiny.recalign(folder, *words(chain), *FAST)
    assert said.code == 0, said.err
    for file in re.findall(r"`(runs/own-log/\S+)`", DOC):
        assert (folder / file).is_file()
    assert "asft" in set(pl.read_csv(folder / "runs/own-log/comparison.csv", glob=False)["method"])
    said = tiny.recalign(folder, *words(recommend))
    assert said.code == 0, said.err
    assert said.out.count("anna") == 10
    (alone,) = re.findall(r"`(recalign fit .*?)`", DOC)
    said = tiny.recalign(folder, *words(alone), *FAST, "--run.name=alone")
    assert said.code == 0


def test_the_message_it_shows_is_the_message(folder: Path):
    path = folder / "own-log.csv"
    whole = path.read_text()
    path.write_text(whole.replace("2026-03-04T18:02:11+01:00", "yesterday"))
    said = tiny.recalign(folder, *words(BLOCKS["sh"][1]))
    path.write_text(whole)
    shown = re.search(r"```\n(data\.log\.timestamp: .*?)\n```", DOC, flags=re.DOTALL)
    assert shown
    assert said.err.strip() == "recalign check: " + shown[1]


def test_the_two_next_commands_are_those_that_init_prints(folder: Path):
    said = tiny.recalign(folder, *words(BLOCKS["sh"][0]), "--force")
    printed = [line.strip() for line in said.out.splitlines() if line.startswith("  recalign")]
    assert printed == [block.strip() for block in BLOCKS["sh"][1:3]]
