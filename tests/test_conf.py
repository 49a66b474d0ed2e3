"""Every YAML under conf/ is commented line by line, and means something to the code it configures."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from recalign.cli import with_config_files
from recalign.data.simulation import World
from recalign.reward.candidates.values import with_own_reward
from recalign.run.chain import Chain, Plan
from recalign.run.chain.experiment import PLACEBOS
from recalign.run.chain.search import Search, Spaces
from recalign.run.commands import rewards
from recalign.run.stage import parse_stage
from recalign.run.stage.settings import instantiated, parse_call
from recalign.run.words import flatten

CONF = Path(__file__).parents[1] / "conf"
ALL = sorted(CONF.rglob("*.yaml"))
LOGS = sorted((CONF / "logs").glob("*.yaml"))
PLACEBO_OF_REWARD = CONF / "methods/rerank_permuted.yaml"  # a reward model, in a method's place
ASFT = CONF / "methods/asft.yaml"
METHODS = sorted({*(CONF / "methods").glob("*.yaml")} - {ASFT, PLACEBO_OF_REWARD})
SEARCH = CONF / "search.yaml"
STAGES = sorted({*(CONF / "stages").glob("*.yaml")} - {CONF / "stages/tokens.yaml"})
STAGES += [ASFT, *METHODS, PLACEBO_OF_REWARD]
CHAINS = sorted((CONF / "chains").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def _no_earlier_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stages look for what they start from in the current folder: a checkout may have runs of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("empty"))
        yield


def name(path: Path) -> str:
    return str(path.relative_to(CONF))


def comments(path: Path) -> Iterator[tuple[str, str, str]]:
    """Lines that set a value: where, the key, and what explains it, on the line or above."""
    previous = ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.strip()
        if text and not text.startswith("#") and not text.endswith(":") and "class_path" not in text:
            _, _, said = line.partition(" #")
            yield f"{number}: {text}", text.partition(":")[0], said.strip() or previous * previous.startswith("#")
        previous = text


EXPLAINED = {key: said for _, key, said in comments(ASFT)}


README = (CONF / "README.md").read_text()


def test_conf_readme_lists_every_file():
    named = set(re.findall(r"`([\w/*-]+)`", README))
    assert [path for path in ALL if not named & {path.stem, name(path)[:-5], f"{name(path.parent)}/*"}] == []


@pytest.mark.parametrize(
    ("cell", "rows", "log", "metric"),
    [
        (0, "archive/step_cost", "simulated", "cost/step_relative"),
        (1, "methods/rows", "ml-100k", "holm_best_baseline/value/judge@10"),
    ],
)
def test_conf_readme_figures_equal_the_studies(cell: int, rows: str, log: str, metric: str):
    saved = pl.read_csv(CONF.parent / f"benchmarks/{rows}.csv").filter(log=log, metric=metric)
    known = dict(saved.select("row", "mean").iter_rows())
    section = README.split("\n## ")[2]
    found = {method: cells for method, *cells in re.findall(r"^\| `(\w+)` \|.*\| (\S+) \| (\S+) \|$", section, re.M)}
    assert {path.stem for path in [ASFT, *METHODS]} <= set(found)
    for method, cells in found.items():
        assert known.get(method) == (
            None if cells[cell] == "-" else pytest.approx(float(cells[cell]), abs=0.00501 / 10**cell)
        )


@pytest.mark.parametrize("path", ALL, ids=name)
def test_yaml_values_are_commented_once(path: Path):
    """Once: what conf/methods/asft.yaml explains needs no word in another method's YAML."""
    known = EXPLAINED if path.parent.name == "methods" and path != ASFT else {}
    found = list(comments(path))
    assert [place for place, key, said in found if not said and key not in known] == []
    assert [place for place, key, said in found if said and said == known.get(key)] == []


@pytest.mark.parametrize("path", LOGS, ids=name)
def test_log_yaml_sets_everything_that_ml_100k_sets(path: Path):
    """A log's YAML is read over ML-100K's defaults, so it has to set whatever ML-100K sets."""
    data = yaml.safe_load(path.read_text())["data"]
    assert {"log", "reward", "high", "split", "max_length"} <= set(data)
    assert {"name", "files"} <= set(data["log"])
    assert "class_path" not in data
    if data["high"] is not None:
        assert "expression" in data["high"]


# Logs and stages meet in the class of the data, so each log is tried on every class and each stage on one log.
CLASSES = [CONF / "stages/recommender.yaml", CONF / "stages/reward.yaml", ASFT]
PAIRS = [(stage, log) for stage in CLASSES for log in LOGS]
PAIRS += [(stage, CONF / "logs/kuairand-pure.yaml") for stage in STAGES if stage not in CLASSES]


@pytest.mark.long
@pytest.mark.parametrize(("stage", "log"), PAIRS, ids=name)
def test_every_stage_takes_every_log(stage: Path, log: Path):
    parsed = parse_stage(["fit", "--config", str(stage), "--config", str(log)])
    written = yaml.safe_load(log.read_text())["data"]
    read = parsed.config["data"]["init_args"]
    in_file, found = flatten(written["log"]), flatten(read["log"])
    assert {key: found[key] for key in in_file} == in_file
    assert (read["reward"], read["max_length"]) == (written["reward"], written["max_length"])
    other = {"judge": "judge_report", "recommender-onerec": "recommender"}
    assert parsed.run.name == other.get(stage.stem, stage.stem)
    assert parsed.folder.path == Path("runs") / written["log"]["name"] / parsed.run.name / "seed-0"


JUDGED = CONF / "trainer/judged.yaml"


@pytest.mark.parametrize("path", sorted({*(CONF / "trainer").glob("*.yaml")} - {JUDGED}), ids=name)
def test_trainer_presets_follow_any_stage(path: Path):
    words = ["--config", str(CONF / "stages/recommender.yaml"), "--config", str(path), "--model.memory=false"]
    parsed = parse_stage(["fit", *words])
    preset = yaml.safe_load(path.read_text())
    assert set(preset) == {"trainer"}
    assert holds(parsed.config["trainer"], preset["trainer"])


def holds(found: Any, written: Any) -> bool:
    """Whether what was written was read; classes have their defaults too."""
    if isinstance(written, dict):
        return all(holds(found[key], value) for key, value in written.items())
    if isinstance(written, list):
        return len(found) == len(written) and all(map(holds, found, written))
    return found == written


def test_judged_preset_finds_the_judges_of_log_and_seed():
    files = [ASFT, CONF / "logs/ml-1m.yaml", JUDGED]
    parsed = parse_stage(["fit", *(f"--config={file}" for file in files), "--seed_everything=3"])
    (callback,) = parsed.config["trainer"]["callbacks"]
    assert callback["init_args"] == {"judge": "runs/ml-1m/judge_select/seed-3/checkpoints/best.ckpt"}


@pytest.mark.parametrize("path", sorted((CONF / "sweep").glob("*.yaml")), ids=name)
def test_sweep_ranges_are_settings_of_its_stage(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setenv("WANDB_RUN_ID", "t")
    sweep = yaml.safe_load(path.read_text())
    program, _, stage, *words, args = sweep["command"]
    assert (program, args) == (sweep["program"], "${args}")
    for end in (0, -1):
        axes = {key: axis.get("values") or [axis["min"], axis["max"]] for key, axis in sweep["parameters"].items()}
        tried = [f"--{key}={values[end]}" for key, values in axes.items()]
        parsed = parse_stage(["fit", *with_config_files("fit", [stage, *words, *tried])])
        assert parsed.folder.path == Path(f"runs/ml-100k/{stage}-t/seed-0")


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(CONF.glob("logs/recommender*/*.yaml")), ids=name)
def test_recommender_settings_of_a_log_follow_stage_and_log(path: Path):
    files = [CONF / f"stages/{path.parent.name}.yaml", CONF / "logs" / path.name, path]
    parsed = parse_stage(["fit", *(f"--config={file}" for file in files)])
    written, read = values(path), flatten(parsed.config)
    assert {key: read[key] for key in written} == written


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[pytest.mark.long] * ("-" in path.stem)) for path in CHAINS], ids=name
)
def test_chain_can_be_planned(path: Path):
    settings = yaml.safe_load(path.read_text())
    world = settings.get("world")
    plan = Plan(Chain(**settings | {"world": None if world is None else World(**world)}), path, {})
    parsed = plan.parse()
    assert {"recommender", "reward", "judge_select", "judge_report", "bc", "asft"} <= set(parsed)
    assert {p.folder.path.parent for p in parsed.values()} == {Path("runs") / path.stem / stage for stage in parsed}
    assert {p.log for p in parsed.values()} == {settings["log"]}
    if settings.get("trials"):
        search = Search(plan, parsed)
        assert {len(tried) for tried in search.settings.values()} == {settings["trials"]}


@pytest.mark.slow
def test_clicked_chain_has_judges_on_long_views():
    path = CONF / "chains/kuairand-pure-excerpt-clicked.yaml"
    parsed = Plan(Chain(**yaml.safe_load(path.read_text())), path, {}).parse()
    rewards = {stage: one.config["data"]["init_args"]["reward"] for stage, one in parsed.items()}
    assert {stage for stage, reward in rewards.items() if reward == "long_view"} == {"judge_select", "judge_report"}
    assert set(rewards.values()) == {"long_view", "is_click"}
    assert parsed["reward"].config["data"]["init_args"]["high"]["expression"] == "long_view = 1"
    assert parsed["reward"].config["data"]["init_args"]["high"]["quantile"] is None


COPIED = {name: CONF / f"methods/{method}.yaml" for name, method in PLACEBOS.items()}
TRAINED_PLACEBOS = {name: path for name, path in COPIED.items() if path.is_file()}
SEARCHED = [path for path in STAGES if path.stem != "judge" and path != PLACEBO_OF_REWARD]


@pytest.mark.long
@pytest.mark.parametrize("path", SEARCHED, ids=name)
def test_search_space_bounds_are_settings_of_the_method(path: Path):
    axes = Spaces(SEARCH).space(TRAINED_PLACEBOS.get(path.stem, path).stem).items()
    for end in (0, -1):
        chosen = {key: axis[end] if isinstance(axis, list) else (axis.low, axis.high)[end] for key, axis in axes}
        config = {
            key.replace(".init_args", ""): value
            for key, value in flatten(parse_stage(["fit", f"--config={path}"], chosen).config).items()
        }
        assert {key: config[key] for key in chosen} == chosen


@functools.cache
def resolved(path: Path) -> dict[str, Any]:
    """Every value of a stage as it would run, by dotted key."""
    config = flatten(parse_stage(["fit", "--config", str(path)]).config)
    return config | {"trainer.precision": config["trainer.precision"] or "32-true"}


def values(path: Path) -> dict[str, Any]:
    """Every value of a YAML file by dotted key."""
    return flatten(yaml.safe_load(path.read_text()))


WEIGHTS = {f"model.init_args.{key}" for key in ("transform", "temperature", "clip")}
ADVANTAGE = {f"data.init_args.{key}" for key in ("source", "baseline", "soft")} | {"data.class_path"}
BUDGET = ("trainer.", "checkpoint.", *(f"model.init_args.{key}" for key in ("weight_decay", "top_k", "keep")))
RATE = "model.init_args.lr"  # not part of the budget: how far a step goes is each method's own, and searched
LOG = {f"data.init_args.{key}" for key in ("users", "max_length", "batch_tokens", "request_time", "seed")}


@pytest.mark.slow
@pytest.mark.parametrize("path", [ASFT, *METHODS], ids=name)
def test_search_learning_rates_span_a_quarter_to_four_times_the_default(path: Path):
    axis = Spaces(SEARCH).space(TRAINED_PLACEBOS.get(path.stem, path).stem)["model.lr"]
    own = resolved(path)[RATE]
    assert (axis.low, axis.high, axis.log) == (pytest.approx(own / 4), pytest.approx(own * 4), True)


@pytest.mark.parametrize("path", METHODS, ids=name)
def test_methods_have_the_same_budget_as_asft(path: Path):
    ours, theirs = resolved(ASFT), resolved(path)
    budget = {key for key in ours.keys() | theirs.keys() if key.startswith(BUDGET) or key in LOG}
    assert {key: theirs.get(key) for key in budget} == {key: ours.get(key) for key in budget}
    assert theirs["run.name"] == path.stem


WEIGHTED = [p for p in METHODS if values(p)["model.class_path"] == values(ASFT)["model.class_path"]]


@pytest.mark.parametrize("path", WEIGHTED, ids=name)
def test_weighted_methods_differ_in_their_weights_alone(path: Path):
    """They are one module: they may differ in how an event is weighted and how far a step goes, and in nothing else."""
    ours, theirs = resolved(ASFT), resolved(path)
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert differing <= {"run.name", RATE} | WEIGHTS | ADVANTAGE


@pytest.mark.parametrize("name", TRAINED_PLACEBOS)
def test_placebo_differs_from_its_method_only_in_data(name: str):
    ours, theirs = resolved(TRAINED_PLACEBOS[name]), resolved(CONF / f"methods/{name}.yaml")
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert differing == {"run.name", "data.class_path"}


def defaults(class_path: str) -> dict[str, Any]:
    """Constructor defaults of a class and of what it passes its keywords on to."""
    package, _, kind = class_path.rpartition(".")
    inits = [
        vars(base)["__init__"]
        for base in getattr(importlib.import_module(package), kind).__mro__[::-1]
        if base.__module__.startswith("recalign.") and "__init__" in vars(base)
    ]
    return {p.name: p.default for init in inits for p in inspect.signature(init).parameters.values()}


@pytest.mark.slow
@pytest.mark.parametrize("path", [ASFT, *METHODS], ids=name)
@pytest.mark.parametrize("part", ["model", "data"])
def test_method_yaml_equals_constructor_defaults(path: Path, part: str):
    """What its YAML leaves out is the constructor's default, and so is all of A-SFT."""
    own, run = yaml.safe_load(path.read_text())[part], parse_stage(["fit", "--config", str(path)]).config[part]
    python, lines = defaults(run["class_path"]), own.get("init_args", {})
    filled = {"seed": 0, "init_from": run["init_args"].get("init_from"), "reward_model": None}  # by the run
    plain = {key: value for key, value in run["init_args"].items() if not isinstance(value, dict)}
    assert plain == {key: (python | lines | filled)[key] for key in plain}
    if path == ASFT:
        assert {key: value for key, value in lines.items() if python[key] != value} == {}


@pytest.mark.parametrize("path", sorted((CONF / "logs/rewards").glob("*.yaml")), ids=name)
def test_candidate_rewards_follow_their_log(path: Path):
    words = with_config_files("rewards", [path.stem, f"rewards/{path.stem}"])
    found = instantiated(*parse_call("rewards", "", rewards, words))
    written = yaml.safe_load(path.read_text())
    assert set(written) == {"rewards"}
    assert {*with_own_reward(found["rewards"], None)} == {*written["rewards"]}
    assert found["data"].log_.name == path.stem
