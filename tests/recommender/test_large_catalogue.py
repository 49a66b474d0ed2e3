"""What makes a large catalogue bearable is an estimate, or exact, as it says; a continued run draws what it would."""

from __future__ import annotations

import math

import pytest
import small
import torch

from recalign.recommender import Recommender, RecommenderData, SequencePolicy
from recalign.recommender import policy as policy_file
from recalign.recommender.module import estimated_log_prob
from recalign.recommender.training import adamw
from recalign.run.stage.callbacks import StepSeeds


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(RecommenderData, log_root)


@pytest.fixture(scope="module")
def batch(data):
    return small.batch_of(data, "train", rows=6)


def policy_of(items: int) -> SequencePolicy:
    torch.manual_seed(1)
    policy = SequencePolicy(small.encoder(), items, temperature=0.3)
    torch.nn.init.normal_(policy.item_embedding.weight)
    return policy


@torch.no_grad()
def test_estimated_log_prob_is_the_softmax_over_target_and_negatives(data, batch):
    policy = policy_of(data.num_items)
    state = policy.encode(batch)
    torch.manual_seed(5)
    logp_T = estimated_log_prob(policy, state, batch.target_T, 7)
    torch.manual_seed(5)
    drawn = torch.randint(1, data.num_items + 1, (7,))
    full_TV = policy.log_probs(state)  # logits up to a constant a state
    for t, target in enumerate(batch.target_T.tolist()):
        others = full_TV[t, [v - 1 for v in drawn.tolist() if v != target]].double().exp().sum()
        own = full_TV[t, target - 1].double().exp()
        expected = (own / (own + others * data.num_items / 7)).log()
        assert logp_T[t].item() == pytest.approx(expected.item(), abs=1e-4)


def test_resumed_run_draws_the_same_negatives(data, tmp_path):
    def module() -> Recommender:
        torch.manual_seed(0)
        return Recommender(data.num_items, small.encoder(dropout=0.2), negatives=8)

    whole, first, rest = module(), module(), module()
    small.trainer_of(tmp_path, 4, StepSeeds(0)).fit(whole, data)
    small.trainer_of(tmp_path, 2, StepSeeds(0)).fit(first, data)
    path = small.saved(first, tmp_path / "first.ckpt")
    torch.manual_seed(99)
    small.trainer_of(tmp_path, 4, StepSeeds(0)).fit(rest, data, ckpt_path=path, weights_only=True)
    assert all(a.equal(b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))
    assert not all(a.equal(b) for a, b in zip(whole.parameters(), first.parameters(), strict=True))


@torch.no_grad()
def test_draw_is_exact_in_large_catalogues():
    """In float32 a millionth added to a half is rounded, and a thousandth of a millionth added to one is lost."""
    items = 200_000
    logp_1V = torch.full((1, items), math.log(1e-2 / (items - 1)))
    logp_1V[0, 0] = math.log(1 - 1e-2)
    torch.manual_seed(0)
    drawn = policy_file.draw(logp_1V, 1_000_000)[0]
    share = (drawn > 0).double().mean().item()
    assert share == pytest.approx(1e-2, abs=5 * math.sqrt(1e-2 / 1_000_000))
    half = (drawn[drawn > 0] < items // 2).double().mean().item()
    assert half == pytest.approx(0.5, abs=0.03)
    assert drawn.min() >= 0
    assert drawn.max() < items


@torch.no_grad()
def test_sample_does_not_depend_on_chunks(data, batch, monkeypatch):
    policy = policy_of(data.num_items).eval()
    state = policy.encode(batch)
    torch.manual_seed(0)
    whole = policy.sample(state, 5)
    monkeypatch.setattr(policy_file, "SCORES", 3 * data.num_items)
    torch.manual_seed(0)
    assert policy.sample(state, 5).equal(whole)


def test_fused_adamw_equals_plain_and_allows_clipping(data, tmp_path):
    torch.manual_seed(0)
    ours, plain = policy_of(30), policy_of(30)
    plain.load_state_dict(ours.state_dict())
    optimizers = adamw(ours, 0.01, 0.1), torch.optim.AdamW(plain.parameters(), 0.01, (0.9, 0.98), weight_decay=0)
    decayed = {id(p) for p in plain.parameters() if p.ndim > 1 and p.shape[-1] > 1}
    for _ in range(5):
        for policy, optimizer in zip((ours, plain), optimizers, strict=True):
            with torch.no_grad():
                for p in policy.parameters():
                    p.grad = p.sin()
                    if policy is plain and id(p) in decayed:
                        p.mul_(1 - 0.01 * 0.1)
            optimizer.step()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    module = Recommender(data.num_items, small.encoder())
    small.fit(module, data, tmp_path, gradient_clip_val=1.0, precision="bf16-mixed", limit_train_batches=1)
