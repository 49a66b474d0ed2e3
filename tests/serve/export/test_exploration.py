"""What exploration costs, measured on validation as requests come."""

from __future__ import annotations

import shutil
from dataclasses import asdict

import numpy as np
import pytest
import small

from recalign.errors import InputError
from recalign.recommender import RecommenderData
from recalign.recommender.checkpoint import load_net
from recalign.run.stage.opened import OpenedRun
from recalign.serve.export import card
from recalign.serve.export.command import bundle_of
from recalign.serve.export.exploration import costs, judge_of, values
from recalign.serve.server import load_bundle


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(RecommenderData, log_root, "tastes", users="all")


def test_the_warmer_the_dearer_and_cold_costs_nothing(bundled, data, rewarded):
    judge = load_net(rewarded, "reward").net.eval()
    cold, one, hot = costs(data, load_bundle(bundled), [0.001, 1.0, 1000.0], (judge, data))
    assert cold.lost == pytest.approx(0, abs=1e-3)
    chance = sum(1 / np.log2(rank + 1) for rank in range(1, 11)) / 22  # of 40 items a user has met 18
    assert abs(hot.ndcg - chance) < 3 * hot.error
    assert cold.ndcg - hot.ndcg == pytest.approx(hot.lost - cold.lost)
    assert cold.value - hot.value == pytest.approx(hot.value_lost - cold.value_lost)
    assert hot.value_lost > 2 * hot.value_error > 0
    assert hot.value_lost > one.value_lost > cold.value_lost == pytest.approx(0, abs=1e-2)
    fixed = costs(data, load_bundle(bundled), [1000.0], fixed=10)[0]
    assert fixed.lost == 0
    assert fixed.value is None
    again = costs(data, load_bundle(bundled), [1.0], seed=99)[0]
    assert again.ndcg != one.ndcg
    assert abs(again.lost - one.lost) < 5 * one.error


def test_the_judges_are_asked_about_what_was_shown_in_its_place(data, rewarded):
    """All targets of a log, with the item that was chosen shown alone: what the judges predict of it."""
    import torch

    from recalign.data.sequences.windows import evaluation_windows

    judge = load_net(rewarded, "reward").net.eval()
    windows = evaluation_windows(data.sequences, np.ones(data.sequences.num_users, bool), "validation", data.max_length)
    shown_TK = torch.zeros(len(windows.target), 10, dtype=torch.long)
    shown_TK[:, 3] = torch.from_numpy(windows.target)
    found_T = values(windows, shown_TK, judge, data)
    for batch in data.loader(windows, seen=False):
        own = np.searchsorted(windows.event, batch.event_T.numpy(), sorter=np.argsort(windows.event))
        own = np.argsort(windows.event)[own]
        predicted_T = judge.predict(judge.states(batch), batch.target_T.clamp(min=1))
        known_T = batch.target_T.numpy() > 0
        assert found_T[own][known_T] == pytest.approx(predicted_T.detach().numpy()[known_T], abs=1e-5)


def test_the_card_has_a_table(bundled, data, cloned, rewarded, tmp_path):
    from dataclasses import replace

    bundle = load_bundle(bundled)
    made = OpenedRun(
        tmp_path / "runs/tastes/asft/seed-0", load_net(cloned, "policy").net, data, {"recommender": cloned}
    )
    assert judge_of(made) is None
    path = made.chain / "judge_select" / "seed-0" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    shutil.copy(rewarded, path)
    assert [*judge_of(made)[0].state_dict()] == [*load_net(rewarded, "reward").net.state_dict()]
    assert "exploration costs" not in card.of(made, bundle.about, None)
    found = costs(data, bundle, [0.5, 2.0])
    text = card.of(made, replace(bundle.about, exploration=list(map(asdict, found))), None)
    assert (
        f"| 2 | {found[1].ndcg:.4f} | {found[1].lost:.4f} ± {found[1].error:.4f} | {found[1].lost / 20:.4f} | " in text
    )
    assert "Value" not in text
    valued = [{**row, "value": 3.0, "value_lost": 0.5, "value_error": 0.125} for row in map(asdict, found)]
    assert " 3.0000 | 0.5000 ± 0.1250 |" in card.of(made, replace(bundle.about, exploration=valued), None)


def test_what_cannot_be_measured(bundled, data, cloned, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be used here") as refused:
        bundle_of(
            OpenedRun(tmp_path, load_net(cloned, "policy").net, data, {}), tmp_path / "bundles", explore=[1.0, 0.0]
        )
    assert refused.value.where == "explore.temperature"
    assert not (tmp_path / "bundles").exists()
    monkeypatch.setattr("recalign.serve.export.verify.sample_users", lambda sequences, users, number, part: ~users)
    with pytest.raises(InputError, match="no validation event has a history"):
        costs(data, load_bundle(bundled), [1.0])
