"""What was passed over: who learns from it, and who does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import small

from recalign.data.events import LogMapping
from recalign.data.sequences import reward_means
from recalign.data.sequences.splits import TRAIN
from recalign.errors import InputError
from recalign.nn import HSTU
from recalign.posttrain import WBC, PairData, PostTrainingData, ShownData
from recalign.posttrain.experimental import KTOData
from recalign.recommender.sequence_policy import SequencePolicy
from recalign.recommender.shown_ranking import AUC, rank_shown
from recalign.reward import RewardData, RewardModel


def shown_log(folder: Path, stars: bool = False) -> Path:
    """Sixty users with twelve requests of four items, two of them of the user's parity, of which one is chosen."""
    rng, rows = np.random.default_rng(0), []
    for user in range(60):
        for step in range(12):
            own, other = (rng.choice(np.arange(parity, 24, 2), 2, replace=False) for parity in (user % 2, 1 - user % 2))
            for item in rng.permutation([*own, *other]):
                click = int(item == own[0])
                rows.append((user, int(item), step, click, (1 + int(item) % 3 if stars else 1.0) if click else None))
    table = pl.DataFrame(rows, schema=["user", "item", "timestamp", "click", "rating"], orient="row", strict=False)
    table.write_csv(folder / "shown.csv")
    return folder


def data_of(kind: type, root: Path, **settings: Any) -> Any:
    log = LogMapping("shown", ["shown.csv"], chosen="click = 1", passed_reward=-1.0)
    made = small.data_of(kind, root, high=None, **settings)
    made.log_ = log
    return made


def test_reward_moments_count_passed_rows_and_advantages_only_choices(tmp_path):
    root = shown_log(tmp_path, stars=True)
    rewards, choices = data_of(RewardData, root), data_of(PostTrainingData, root, baseline="user")
    log = rewards.sequences
    assert len(rewards.rated_events) > 3 * len(choices.rated_events)
    assert rewards.reward_moments().sd == choices.reward_moments().sd == rewards.rated_events["reward"].std()
    events = choices.training().event
    assert events.max() < len(log.frame)
    own = log.frame.filter(pl.Series(log.users_in("A")).gather(log.frame["user"]))
    means = dict(zip(own["event"], reward_means(own)["user"], strict=True))  # of choices alone
    expected = [(log.frame["reward"][int(event)] - means[event]) / rewards.reward_moments().sd for event in events]
    assert np.allclose(choices.training().advantage, expected)


def test_equal_rewards_of_choices_are_refused_for_asft(tmp_path):
    root = shown_log(tmp_path)
    with pytest.raises(InputError, match="weights would not differ: all rewards are 1") as caught:
        data_of(PostTrainingData, root).training()
    assert "wbc" in str(caught.value.remedy)
    assert len(data_of(ShownData, root, source="observed", baseline="none").training())


def test_shown_data_has_every_row_with_its_reward(tmp_path):
    data = data_of(ShownData, shown_log(tmp_path), source="observed", baseline="none")
    windows, log = data.training(), data.sequences
    rows = log.impressions[windows.event]
    assert set(rows["split"]) == {TRAIN}
    assert (rows["user"].to_numpy() == np.repeat(windows.user, np.diff(windows.offset))).all()
    assert np.allclose(windows.advantage * data.reward_moments().sd, np.where(windows.event < len(log.frame), 1, -1))
    assert len(windows.event) == len(set(windows.event)) == data.rated_events.height * 6 / 7  # the first has no history
    assert data.windows("validation").event.max() < len(log.frame)


@pytest.mark.parametrize(("pairs", "losers"), [("logged", 1), ("sampled", 2), ("sampled", 5)])
@pytest.mark.parametrize("stars", [True, False], ids=["stars", "clicks"])  # all clicks have one reward
def test_losers_were_shown_with_the_choice_and_skipped(tmp_path, pairs, losers, stars):
    data = data_of(PairData, shown_log(tmp_path, stars), pairs=pairs, losers=losers)
    windows, log = data.training(), data.sequences
    assert data.share == 1
    for event, target, rejected in zip(windows.event, windows.target, windows.rejected, strict=True):
        own = log.frame.row(int(event), named=True)
        skipped = log.skipped.filter(request=own["request"])["item_id"].to_list()
        assert target == own["item_id"]
        assert set(rejected) <= set(skipped)
        assert len(set(rejected)) == min(losers, 3)


def test_choices_without_worse_passed_rows_have_no_pair(tmp_path):
    """In float32, as rewards of windows are, 0.3 is more than a mean of 0.3 in float64."""
    path = shown_log(tmp_path) / "shown.csv"
    table = pl.read_csv(path).filter((pl.col("click") == 1) | (pl.col("timestamp") < 6))
    table.with_columns(pl.col("rating") * 0.3).write_csv(path)
    data = data_of(PairData, tmp_path, pairs="sampled")
    windows, log = data.training(), data.sequences
    with_skipped = log.frame[windows.event]["request"].is_in(log.skipped["request"].implode()).to_numpy()
    assert 0 < with_skipped.mean() < 1
    assert ((windows.rejected > 0).all(axis=1) == with_skipped).all()


@pytest.mark.parametrize("passed_reward", [-1.0, None])
def test_what_was_skipped_is_bad_for_kto_with_a_reward_and_without(tmp_path, passed_reward):
    data = data_of(KTOData, shown_log(tmp_path, stars=True))
    data.log_ = LogMapping("shown", ["shown.csv"], chosen="click = 1", passed_reward=passed_reward)
    windows, chosen = data.training(), len(data.sequences.frame)
    assert (windows.advantage[windows.event >= chosen] < 0).all()
    of_choices = windows.advantage[windows.event < chosen]
    assert (of_choices > 0).mean() == 1.0 if passed_reward else 0.4 < (of_choices > 0).mean() < 0.8
    assert len(windows.event) == 4 * (windows.event < chosen).sum()


def test_reward_data_without_passed_rows_has_the_logs_events(log_root):
    data = small.data_of(RewardData, log_root)
    plain = data.training().in_memory()
    data.skipped_targets = ("train", "validation", "test")
    assert np.array_equal(data.training().in_memory().event, plain.event)
    assert data.all_events is data.sequences.frame


def test_a_reward_model_learns_what_is_skipped(tmp_path):
    data = data_of(RewardData, shown_log(tmp_path))
    module = RewardModel(data.num_items, encoder=HSTU(dim=16, layers=1, max_length=32), members=1, num_factors=2)
    small.fit(module, data, tmp_path / "run", epochs=4, limit_val_batches=1.0)
    net = module.reward.eval()

    def scores(batch, item_TC):
        return net.predict(net.states(batch), item_TC)

    assert rank_shown({"reward": scores}, data, "test")["reward"][AUC].mean() > 0.62
    assert module.trust_report["validation"]["events"] > 2 * len(data.sequences.frame.filter(split=1))


def test_wbc_raises_what_was_chosen_above_what_was_skipped(tmp_path):
    data = data_of(ShownData, shown_log(tmp_path), source="observed", baseline="none")
    start = SequencePolicy(HSTU(dim=16, layers=1, max_length=32, dropout=0.0), data.num_items)
    module = small.free(WBC, policy=start, lr=1e-2)

    def auc(policy):
        scored = {"policy": lambda batch, item_TC: policy.log_probs(policy.encode(batch), item_TC)}
        return rank_shown(scored, data, "test")["policy"][AUC].mean()

    before = auc(start)
    steps = small.fit(module, data, tmp_path / "run", epochs=6).steps
    assert before < 0.56
    assert auc(module.policy.eval()) > 0.62
    assert steps[0]["wbc/negative"] == pytest.approx(0.75, abs=0.02)


def test_wbc_refuses_rewards_of_one_sign(tmp_path):
    data = data_of(ShownData, shown_log(tmp_path, stars=True), source="observed", baseline="none")
    data.log_ = LogMapping("shown", ["shown.csv"], chosen="click = 1")
    start = SequencePolicy(HSTU(dim=16, layers=1, max_length=32, dropout=0.0), data.num_items)
    with pytest.raises(InputError, match="no row has an advantage below 0") as caught:
        small.fit(small.free(WBC, policy=start), data, tmp_path / "run")
    assert caught.value.where == "data.reward"
