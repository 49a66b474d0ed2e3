"""The page and the terminal table: what they show, what they leave out, and that odd figures break neither."""

import dataclasses
import json
import shutil
from html.parser import HTMLParser

import polars as pl
import pytest
import tiny
from rich.console import Console

from recalign.data.sequences.audit import FOLLOWS, SEEN
from recalign.errors import InputError
from recalign.evaluation import page, plots
from recalign.evaluation.chain_comparison import RunsComparison
from recalign.evaluation.comparison import SCHEMA
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.report import show, terminal_table
from recalign.evaluation.roles import Roles
from recalign.evaluation.sources import Sources
from recalign.seals import seal


def words_of(folder):
    """The text of a chain's page, which is well-formed."""
    return Strict(page.write_page(folder, Sources.of(folder)).read_text(encoding="utf-8")).words


@pytest.fixture
def without_pictures(monkeypatch):
    """They take most of a page's time."""
    monkeypatch.setattr(plots, "drawn", tiny.picture)


VOID = {"meta", "br", "link", "hr", "img", "wbr"}


class Strict(HTMLParser):
    """Collects the text; every tag must be closed in order, and nothing may be fetched."""

    def __init__(self, page):
        super().__init__()
        self.open, self.text = [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag not in ("link", "img", "iframe")
        assert not [v for k, v in attrs if k in ("src", "href", "xlink:href") and not v.startswith("#")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["script"]:
            self.text += data.split()

    @property
    def words(self):
        return " ".join(self.text)


def trust(verdict):
    """A trust report, as a reward model writes it."""
    row = {figure: [0.25, 0.2, 0.31] for figure in ("rmse", "mae", "r2", "auc", "pairwise")}
    names = ("model", "global", "user", "item", "user_item", "ridge", "factors")
    bins = [{"predicted": 1.0, "observed": 1.5}, {"predicted": 2.0, "observed": 1.75}]
    part = {
        "table": {name: row | {"spearman": [None] * 3 if name == "global" else [0.5, 0.4, 0.6]} for name in names},
        "best_average": "ridge",
        "calibration": {"bins": bins},
    }
    return {
        "verdict": verdict, "implication": f"Do what {verdict} implies.", "judged_on": "validation",
        "validation": part,
    }  # fmt: skip


@pytest.fixture(scope="module")
def chain(made_up_chain):
    """The made-up chain, compared, with manifests, a log check and a trust report."""
    RunsComparison(made_up_chain, draws=1000).make()
    for seed in range(3):
        folder = made_up_chain / "reward" / f"seed-{seed}"
        folder.mkdir(parents=True)
        manifest = {
            "stage": "reward", "log": "made-up", "seed": seed, "status": "finished", "seconds": 12.5,
            "command": f"recalign fit --config conf/stages/reward.yaml --name '<{seed}>'", "fingerprint": "f1" * 20,
            "versions": {"recalign": "0.1.0", "torch": "2.7.0"}, "git": {"commit": "c0ffee" * 6, "dirty": True},
            "started": f"2026-01-0{seed + 1}T00:00:00+00:00",
        }  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "trust.json").write_text(json.dumps(trust("weak" if seed else "strong")))
    check = {"log": {"rows": 1234567, "name": "<b>"}, "reward histogram": {"1": 5, "2": 10}, "empty": {}}
    check["test"] = {SEEN: 0.0, FOLLOWS: 0.0}
    (made_up_chain / "check.json").write_text(json.dumps(check))
    for method in ("start", "asft"):
        history = [{"title": "<b>Alien</b>\x1b\u202e", "reward": 4}, {"title": "Up", "reward": None}]
        seen = [{"user": "7", "history": history, "shown": ["Up", method]}]
        (made_up_chain / method / "seed-0/evaluation/examples.json").write_text(json.dumps(seen))
    return made_up_chain


@pytest.mark.slow
def test_the_page_of_a_full_chain(chain):
    path = page.write_page(chain, Sources.of(chain))
    assert path == chain / "report.html"
    html = path.read_text(encoding="utf-8")
    words = Strict(html).words
    for expected in (
        "made-up", "seeds 0, 1, 2", "750 test events of 150 users", "torch 2.7.0", "commit c0ffeec0ff, changed",
        "seed 0: strong. Do what strong implies.", "seeds 1, 2: weak. Do what weak implies.", "1,234,567", "name <b>",
        "reward model 0.250 0.200 – 0.310", "mean of all 0.250 0.200 – 0.310 0.250",
        "recalign fit --config conf/stages/reward.yaml --name '<0>'",
        "KL(policy || start)", "Not decided: asft", "Why Nothing tells whether the judges", "What does it cost?",
        "the estimate of a gain is 0.015 sd at least", "an interval that ends below either",
        "strong / weak Do what strong implies. (seed 0) Do what weak implies. (seed 1, 2)",
        "Placebos (asft_permuted, asft_random) must gain nothing.",
        "user 7 <b>Alien</b>\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} 4 Up – start Up start asft Up asft",
    ):  # fmt: skip
        assert expected in words
    assert html.count("<svg") == 7
    assert "over-optimisation: methods by policy/kl and diff_start/gap/judge@10" in html
    assert "width: 50.0%" in html
    assert html.count('<tr class="highlight"><th scope="row">asft</th>') == 3  # test, all of its columns, validation
    assert words.index("Not decided: asft") < words.index("What does it gain?") < words.index("torch 2.7.0")
    assert html.partition("<h2>The log</h2>")[2].partition("</section>")[0].count('<div class="blocks">') == 1


def test_an_evaluation_that_was_altered_is_refused(tmp_path, made_up_run):
    made_up_run(tmp_path, "start", 0, users=20, events=2)
    RunsComparison(tmp_path, draws=50).make()
    evaluation = tmp_path / "start/seed-0/evaluation"
    seal(evaluation)
    Sources.of(tmp_path)
    (evaluation / "test.parquet").write_bytes(b"?")
    with pytest.raises(InputError, match=r"test\.parquet: missing, or its SHA-256 has changed"):
        Sources.of(tmp_path)


def test_a_chain_that_only_cloned(tmp_path, made_up_run):
    made_up_run(tmp_path, "start", 0, users=20, events=2)
    RunsComparison(tmp_path, draws=50).make()
    assert "start" in words_of(tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    for absent in ("The rules", "<svg", "Run it again", "The log", "reward model be trusted", "changes for a user"):
        assert absent not in html


def test_figures_that_plots_cannot_draw(tmp_path, made_up_run):
    """A run that diverged (nan), a baseline that never hit (a share of 0), draws too few for Holm (infinite ends)."""
    for method in ("start", "bc", "asft", "ppo"):
        made_up_run(tmp_path, method, 0, users=20, events=2)
        path = tmp_path / method / "seed-0" / "evaluation" / "test.parquet"
        frame = pl.read_parquet(path).with_columns(pl.lit(0, pl.UInt32).alias("rank"))
        if method == "ppo":
            frame = frame.with_columns(pl.lit(float("nan")).alias("judge@10"))
        frame.write_parquet(path)
    frame = RunsComparison(tmp_path, draws=50).make()
    words = words_of(tmp_path)
    assert "nan" in words
    assert "Not decided" in words
    assert "Run three seeds" in words
    assert "nan" in shown(frame)


def test_no_comparison_yet(tmp_path):
    with pytest.raises(InputError, match="recalign compare"):
        Sources.of(tmp_path)


def shown(frame, width=80, judged=True):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal_table(ComparisonTable(frame, Roles(), judged=judged)))
    return console.export_text()


def test_the_terminal_table(chain):
    frame = pl.read_csv(chain / "comparison.csv", schema=SCHEMA)
    text = shown(frame)
    lines = text.splitlines()
    assert "…" not in text
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[2:5]] == ["popularity", "popularity_high", "item_mean"]
    asft = next(line for line in lines if line.startswith("asft "))
    assert asft.count("▲") == 3
    guessed = shown(frame, judged=False).splitlines()
    assert next(line for line in guessed if line.startswith("asft ")).count("▲") == 2  # not of value
    assert next(line for line in lines if line.startswith("popularity ")).split()[-1] != "–"


@pytest.mark.usefixtures("without_pictures")
def test_judges_have_their_own_errors_on_the_page(chain, tmp_path):
    folder = shutil.copytree(chain, tmp_path / "judged")
    for stage, rmse in (("judge_select", 0.5), ("judge_report", 0.75)):
        for seed in range(3):
            said = trust("weak")
            said["validation"]["table"]["model"]["pairwise"] = [0.6, 0.55, 0.65]
            del said["validation"]["table"]["model"]["mae"]  # as in a report of an earlier version
            said["validation"]["table"]["model"]["rmse"] = [rmse, rmse - 0.1, rmse + 0.1]
            (folder / stage / f"seed-{seed}").mkdir(parents=True)
            (folder / stage / f"seed-{seed}" / "trust.json").write_text(json.dumps(said))
    words = words_of(folder)
    assert "judges that select 0.500 0.400 – 0.600" in words
    assert "judges that report 0.750 0.650 – 0.850" in words
    assert "Ship asft, with care +0." in words  # of judges that know little more than averages
    assert "asft start, trained on towards higher rewards" in words
    assert "Why Gain of asft over" in words
    (folder / "check.json").write_text(json.dumps({"test": {SEEN: 0.5, FOLLOWS: 0.0}}))
    words = words_of(folder)
    assert "Why In 50.0% of the test events the user had met the item before." in words
    without = words_of(chain)
    assert "judges that" not in without.split("May the reward")[1].split("On events")[0]


@pytest.mark.usefixtures("without_pictures")
def test_an_altered_comparison_is_not_shown(chain, tmp_path):
    folder = shutil.copytree(chain, tmp_path / "changed")
    (folder / "comparison.csv").write_text((folder / "comparison.csv").read_text().replace("1", "2", 1))
    with pytest.raises(InputError, match=r"altered: comparison\.csv\)\n.*recalign compare"):
        Sources.of(folder)


def test_the_sentence_has_the_whole_name(chain, capsys):
    found = Sources.of(chain)
    selected = dataclasses.replace(found.decision.selected, policy="asft [lr=1e-3]")
    show(dataclasses.replace(found, decision=dataclasses.replace(found.decision, candidates=[selected])))
    assert "asft [lr=1e-3]" in capsys.readouterr().out
