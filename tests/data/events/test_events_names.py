"""Names of any characters: columns, ids and files are matched as they are and shown so that no terminal obeys them."""

from __future__ import annotations

import io
import re
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import polars as pl
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recalign.cli import main
from recalign.data.events import LogMapping, load_events

ODD = ["[/b]", "[red]", 'a"b', "a'b", "a b", "a:b", "#x", "{a}", "${a}", "\x1b[31m", "\x1f", "a\nb", "é", "-x"]
NAMES = st.sampled_from(ODD) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=5)
FEW = settings(deadline=None, suppress_health_check=list(HealthCheck))


def plain(names: list[str]) -> bool:
    """Whether no name stands for something else: the event table's own columns, and words for missing values."""
    taken = {"user", "item", "timestamp", "row", "reward", "nan", "NaN", "NULL", r"\N", ""}
    return not taken & set(names) and not any(name == "*" or re.fullmatch(r"(?s)\^.*\$", name) for name in names)


@FEW
@given(st.lists(NAMES, min_size=6, max_size=6, unique=True).filter(plain), st.sampled_from(["parquet", "csv"]))
def test_unusual_names_of_columns_ids_and_folders_are_read(names, kind):
    user, item, when, stars, first, second = names
    if kind == "csv" and any("\r" in name for name in names):
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / first.replace("/", "_").replace(".", "_")
        root.mkdir()
        values = {user: [first, second], item: [second, first], when: [1, 2], stars: [1, 5]}
        frame = pl.DataFrame(values)
        frame.write_parquet(root / "log.parquet") if kind == "parquet" else frame.write_csv(root / "log.csv")
        log = LogMapping("test", [f"log.{kind}"], user=user, item=item, timestamp=when)
        table = load_events(log, root, '"' + stars.replace('"', '""') + '"')
    users, items = table.users.gather(table.frame["user"]), table.items.gather(table.frame["item"])
    shown = zip(map(str, users), map(str, items), strict=True)  # ids such as 0 and 1 are integers
    assert sorted(shown) == sorted([(first, second), (second, first)])
    assert table.frame.sort("timestamp")["reward"].to_list() == [1, 5]
    assert "\x1b" not in str(table.report)


@FEW
@given(st.sampled_from(ODD), st.sampled_from(ODD))
def test_init_keeps_unusual_names(column, name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.parquet"
        rows = {"user": [name, "b"] * 10, "item": ["x", name] * 10, "time": range(1_700_000_000, 1_700_000_020)}
        pl.DataFrame(rows | {column: [1, 5] * 10}).write_parquet(path)
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(["init", str(path), f"--reward={column}", "--out", f"{folder}/log.yaml"])
        assert code == 0, err.getvalue()
        data = yaml.safe_load(Path(f"{folder}/log.yaml").read_text())["data"]
        log = LogMapping(**data["log"])
        assert load_events(log, Path(folder), data["reward"]).frame["reward"].to_list().count(5) == 10
    assert "\x1b" not in out.getvalue()
    if len(name) < 6 and name.isprintable():
        assert name in out.getvalue()
