"""Which stage of how many, and how much time is left as far as that is known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from recalign.run.chain.progress import SECONDS, Progress, in_words, kind_of


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, ""),
        (0.2, ", about 10 s left"),
        (31, ", about 40 s left"),
        (200, ", about 3 min left"),
        (5400, ", about 1.5 h left"),
    ],
)
def test_a_time_is_rounded_to_what_is_known(seconds: float, said: str):
    assert in_words(seconds) == said


class Clock:
    """A time that tests set."""

    now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr(Clock, "now", 0.0)
    monkeypatch.setattr("recalign.run.chain.progress.time.monotonic", lambda: Clock.now)
    return Clock


def in_a_row(*names: str) -> dict[str, tuple[str, ...]]:
    return dict(zip(names, [(), *((name,) for name in names)], strict=False))


def test_nothing_is_said_of_the_time_until_something_has_run(clock: type[Clock], capsys: pytest.CaptureFixture[str]):
    progress = Progress(in_a_row("trial-0", "trial-1", "trial-2", "trial-3"), "trial")
    for number, (words, seconds) in enumerate((("unchanged", 0.2), ("minute", 60), ("two", 120), ("last", 60))):
        progress.announce(f"trial-{number}", words)
        clock.now += seconds
        progress.end(f"trial-{number}")
    assert capsys.readouterr().out.splitlines() == [
        "trial 1 of 4: unchanged",
        "trial 2 of 4: minute",
        "trial 3 of 4, about 2 min left: two",
        "trial 4 of 4, about 2 min left: last",
    ]


def chain(methods: int, seeds: int) -> dict[str, tuple[str, ...]]:
    """Tasks as a chain has them."""
    needs: dict[str, tuple[str, ...]] = {}
    for seed in range(seeds):
        start, *scorers = (
            f"{stage}/seed-{seed}" for stage in ("recommender", "reward", "judge_select", "judge_report")
        )
        needs |= {start: (), scorers[0]: (start,), scorers[1]: (), scorers[2]: ()}
        trained = [f"{method}/seed-{seed}" for method in METHODS[:methods]]
        needs |= dict.fromkeys(trained, (start, *scorers))
        needs[f"evaluation/seed-{seed}"] = (start, *scorers, *trained)
    return needs


METHODS = ["bc", "reward_weighted", "asft", "dpo", "ppo", "cql", "kto", "ipo"]


def run(progress: Progress, workers: int, seconds: Mapping[str, float], clock: type[Clock]) -> Iterator[list[str]]:
    """Run tasks on the clock, each as soon as it may; yields what has ended at each end."""
    ends: dict[str, float] = {}
    done: list[str] = []
    while len(done) < len(progress.needs):
        for name, needs in progress.needs.items():
            if len(ends) < workers and name not in (*done, *ends) and set(needs) <= set(done):
                progress.begin(name)
                ends[name] = clock.now + seconds[name]
        name = min(ends, key=ends.__getitem__)
        clock.now = ends.pop(name)
        progress.end(name)
        done.append(name)
        yield done


@pytest.mark.parametrize("workers", [1, 2, 4, 16])
@pytest.mark.parametrize(("methods", "seeds"), [(2, 1), (8, 1), (8, 5)])
def test_after_the_first_stage_the_time_left_is_never_off_by_more_than_two(
    clock: type[Clock], workers: int, methods: int, seeds: int
):
    """With the right weights, on a machine that takes 7.3 times as long as theirs."""
    needs = chain(methods, seeds)
    seconds = {name: 7.3 * SECONDS.get(kind_of(name), SECONDS["method"]) for name in needs}
    progress = Progress(needs, "stage", workers)
    said = [(clock.now, progress.left(), len(done)) for done in run(progress, workers, seconds, clock)]
    end = clock.now
    for now, left, done in said[:-1]:
        assert (end - now) / 2 <= left <= (end - now) * 1.001, (now, left, done)
    assert said[-1][1] == 0


def test_the_first_stage_has_an_estimate_from_its_own_progress(clock: type[Clock]):
    """Half of the recommender is done: the others take their share of what all of it will take."""
    needs = chain(methods=2, seeds=1)
    progress = Progress(needs, "stage")
    progress.begin("recommender/seed-0")
    clock.now = 50.0
    assert progress.left() == 0
    others = [SECONDS.get(kind_of(name), SECONDS["method"]) for name in needs if name != "recommender/seed-0"]
    expected = 50 + sum(others) * 100 / SECONDS["recommender"]
    assert progress.left({"recommender/seed-0": 50.0}) == pytest.approx(expected)
    assert progress.about({"recommender/seed-0": 50.0}) == in_words(expected, "perhaps")  # it may stop early
    clock.now = 60.0
    progress.end("recommender/seed-0")
    assert progress.about() == in_words(sum(others) * 60 / SECONDS["recommender"])


def test_the_first_stage_has_an_estimate_from_an_earlier_call(clock: type[Clock], tmp_path: Path):
    kept, needs = tmp_path / "seconds.json", in_a_row("recommender/seed-0", "bc/seed-0", "bc/seed-1")
    first = Progress(needs, "stage", kept=kept)
    for _ in run(first, 1, {"recommender/seed-0": 60, "bc/seed-0": 8, "bc/seed-1": 12}, clock):
        pass
    assert json.loads(kept.read_text()) == {"recommender": 60, "bc": 10}
    again = Progress(needs, "stage", kept=kept)
    again.begin("recommender/seed-0")
    assert again.left() == 0  # it may be unchanged
    clock.now += 15
    assert again.left() == 45 + 20
    assert again.left({"recommender/seed-0": 200.0}) == 45 + 20  # an upper bound: it stopped early before
    assert again.left({"recommender/seed-0": 5.0}) == 5 + 20
    clock.now += 60
    assert again.left({"recommender/seed-0": 30.0}) == 30 + 20  # it takes longer than before
    clock.now += 45
    again.end("recommender/seed-0")
    assert again.left() == 2 * 20  # at the pace of the first
    unchanged = Progress(needs, "stage", kept=kept)
    unchanged.begin("recommender/seed-0")
    clock.now += 5  # to find that out
    unchanged.end("recommender/seed-0", made=False)
    assert unchanged.left() == 0
    assert json.loads(kept.read_text()) == {"recommender": 120, "bc": 10}


def test_a_method_without_a_time_of_its_own_takes_its_share_of_an_earlier_call(clock: type[Clock], tmp_path: Path):
    kept = tmp_path / "seconds.json"
    kept.write_text(json.dumps({"recommender": 10 * SECONDS["recommender"]}))
    progress = Progress(in_a_row("recommender/seed-0", "new/seed-0"), "stage", kept=kept)
    progress.begin("recommender/seed-0")
    clock.now = 2.0
    assert progress.left() == pytest.approx(10 * (SECONDS["recommender"] + SECONDS["method"]) - 2)


def test_methods_go_at_the_pace_of_methods(clock: type[Clock]):
    """On a short log a method takes as long as the recommender."""
    needs = in_a_row("recommender/seed-0", "bc/seed-0", "asft/seed-0", "dpo/seed-0")
    progress = Progress(needs, "stage")
    said = [progress.left() for _ in zip(run(progress, 1, dict.fromkeys(needs, 3.0), clock), range(2), strict=False)]
    assert said == [pytest.approx(3 * 3), 6]
    clock.now = 0.0
    needs = in_a_row("tokens/seed-0", "recommender/seed-0", "bc/seed-0")
    progress = Progress(needs, "stage")
    seconds = {"tokens/seed-0": 60.0, "recommender/seed-0": SECONDS["recommender"]}
    for done in run(progress, 1, seconds, clock):
        if len(done) == len(seconds):
            break
    assert progress.left() == pytest.approx(SECONDS["method"])  # which ids take longer than says nothing


def test_on_a_short_log_a_stage_takes_as_long_as_the_recommender(clock: type[Clock]):
    """Of 1,500 users with 3 to 8 events, on two busy cores: 54 seconds were left after the recommender."""
    seconds = {"recommender": 4.9, "reward": 9.7, "judge_select": 4.1, "judge_report": 2.0, "bc": 4.1, "asft": 3.8}
    seconds |= {"reward_weighted": 2.9, "asft_permuted": 5.3, "asft_random": 4.4, "rerank_permuted": 4.9, "cql": 3.2}
    seconds |= {"evaluation": 9.5}
    progress = Progress(in_a_row(*seconds), "stage")
    next(run(progress, 1, seconds, clock))
    assert sum(seconds.values()) - 4.9 == pytest.approx(54, abs=1)
    assert progress.left() > 54 / 2
    quick = Progress(in_a_row("recommender", "bc", "asft"), "stage")
    next(run(quick, 1, dict.fromkeys(quick.needs, 1.5), clock))
    assert quick.left() == pytest.approx(2 * 1.5)  # one took less than `START`


def test_with_many_workers_the_longest_path_is_left(clock: type[Clock]):
    """Not what all tasks would take one after the other."""
    needs = {"bc/seed-0": (), **{f"bc/seed-{n}": () for n in range(1, 9)}, "evaluation/seed-0": ("bc/seed-0",)}
    progress = Progress(needs, "stage", workers=9)
    for _ in run(progress, 9, dict.fromkeys(needs, 60.0), clock):
        break
    assert progress.left() == pytest.approx(60 * SECONDS["evaluation"] / SECONDS["method"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("recommender/seed-0", "recommender"),
        ("asft/trial-3", "asft"),
        ("asft/validation", "validation"),
        ("trial-12", "trial"),
        ("choice", "choice"),
    ],
)
def test_the_kind_of_a_task_is_its_stage_or_method(name: str, kind: str):
    assert kind_of(name) == kind
