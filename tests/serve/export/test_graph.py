"""The plain graph against the policies: the same log-probabilities after every test event."""

from __future__ import annotations

import numpy as np
import pytest
import small
import torch

from recalign.data.sequences import EventDataModule
from recalign.evaluation.counted_rows import SameForAll
from recalign.evaluation.reranking import ItemScores, Rerank
from recalign.nn import HSTU, LazyDecoder, Pooled, SASRec
from recalign.recommender import CodePolicy, Policy, RecommenderData, SequencePolicy
from recalign.recommender.onerec import random_codes
from recalign.reward import MeanHead, OrdinalHead, RewardEnsemble
from recalign.serve.export.graph import Graph, part_of
from recalign.serve.export.onnx import OUTPUTS, write
from recalign.serve.export.verify import _of_batch
from recalign.serve.server.bundle import padded

ENCODERS = {
    "hstu": lambda: HSTU(8, layers=3, heads=2, max_length=32),
    "one layer": lambda: HSTU(8, layers=1, max_length=32, head_dim=6),
    "no biases": lambda: HSTU(8, max_length=32, time_bias=False, position_bias=False),
    "sasrec": lambda: SASRec(8, heads=2, max_length=32),
    "pooled": lambda: Pooled(8, max_length=32),
}


def shaken(net: torch.nn.Module) -> torch.nn.Module:
    """With weights that are not those of an untrained network; the padding item stays zero."""
    with torch.no_grad():
        for name, weight in net.named_parameters():
            weight.add_(0.3 * torch.randn_like(weight))
            if weight.ndim > 1 and ("item_" in name) and len(weight) == 41:
                weight[0] = 0
    return net.eval()


def policy(encoder: str = "hstu", items: int = 40, feedback: bool = False) -> SequencePolicy:
    torch.manual_seed(0)
    made = SequencePolicy(ENCODERS[encoder](), items, 0.2, feedback)
    made.set_counts(torch.randint(0, 50, (items,)))
    made.prior_strength = 0.4
    return shaken(made)


def reward(head=None, members: int = 3, **settings) -> RewardEnsemble:
    torch.manual_seed(1)
    made = shaken(RewardEnsemble(HSTU(8, max_length=32), 40, members, head=head, num_factors=3, **settings))
    for net in made.nets:
        net.log_ridge.data.zero_()
        net.factor_variance_VF[1:] = torch.rand(40, 4)
    return made


@torch.no_grad()
def both(policy: Policy, data: EventDataModule, k: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities by the policy and by the graph. Shape: (T, V) each."""
    batch = small.batch_of(data, rows=12)
    encoded = list(_of_batch(batch, getattr(policy, "strength", 0.0)))
    length = max(len(one.item_L) for one in encoded) + 3
    given = {
        "item": padded([one.item_L for one in encoded], length),
        "time": padded([one.time_L for one in encoded], length, last=True),
        "length": np.array([len(one.item_L) for one in encoded]),
        "hidden": padded([one.hidden_S for one in encoded], 40),
        "reward": padded([one.reward_L for one in encoded], length, np.float32("nan")),
        "request_time": padded([one.request_time_L for one in encoded], length, last=True),
        "strength": np.array([one.strength for one in encoded], np.float32),
    }
    graph = Graph(part_of(policy), k, data.know_request).eval()
    tensors = {name: torch.from_numpy(given[name]) for name in graph.inputs}
    item_TK, _, logit_TN = graph(tensors | graph.part.tables())
    state = policy.encode(batch)
    top = policy.top_k(state, k, batch.seen_N)[1]
    assert (item_TK == top).float().mean() > 0.99  # the order of ties
    return policy.log_probs(state), logit_TN[:, 1:].log_softmax(dim=1)


def data_of(log_root, **settings) -> EventDataModule:
    return small.data_of(RecommenderData, log_root, users="all", **settings)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("request_time", ["last_event", "known"])
def test_policies_over_items(encoder, request_time, log_root):
    torch.testing.assert_close(*both(policy(encoder), data_of(log_root, request_time=request_time)), atol=1e-5, rtol=0)


def test_a_policy_with_a_memory(log_root):
    own, graph = both(small.with_memory(policy()), data_of(log_root))
    torch.testing.assert_close(own, graph, atol=1e-5, rtol=0)
    assert (own - both(policy(), data_of(log_root))[0]).abs().max() > 0.1


def test_a_policy_that_reads_rewards(log_root):
    torch.testing.assert_close(*both(policy(feedback=True), data_of(log_root)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "scores",
    [
        lambda: reward(MeanHead()),
        lambda: reward(OrdinalHead([1.0, 2.0, 4.0])),
        lambda: reward(share="nothing", cooccurrence_dim=2),
        lambda: ItemScores(torch.randn(40)),
    ],
)
def test_reranked_policies(scores, log_root):
    own, graph = both(Rerank(policy(), scores(), 0.7).eval(), data_of(log_root))
    torch.testing.assert_close(own, graph, atol=1e-4, rtol=0)
    plain, _ = both(policy(), data_of(log_root))
    assert (own - plain).abs().max() > 0.1  # the strength counts


def coded(**settings) -> CodePolicy:
    torch.manual_seed(0)
    decoder = LazyDecoder(8, layers=2, heads=2, max_length=32)
    made = CodePolicy(decoder, 40, [6, 5, 4], temperature=0.2, **settings)
    made.set_codes(random_codes(40, [6, 5, 4]))
    made.set_counts(torch.randint(0, 50, (40,)))
    made.prior_strength = 0.4
    return shaken(made)


@pytest.mark.parametrize(
    "made",
    [
        lambda: coded(feedback=True),
        lambda: Rerank(coded(), reward(), 0.7).eval(),
        lambda: small.with_memory(coded()),
    ],
)
def test_policies_over_codes(made, log_root):
    torch.testing.assert_close(*both(made(), data_of(log_root)), atol=1e-4, rtol=0)


def some(rows: int, length: int, hidden: int) -> dict[str, torch.Tensor]:
    """Inputs of a size; the last history is empty where there are several."""
    length_B = torch.full((rows,), length)
    length_B[-1] = 0 if rows > 1 else length
    return {
        "item": torch.randint(1, 41, (rows, length)) * (torch.arange(length) < length_B[:, None]),
        "time": torch.arange(length).expand(rows, -1).contiguous() * 1000,
        "request_time": torch.arange(length).expand(rows, -1) * 1000 + 500,
        "length": length_B,
        "hidden": torch.randint(0, 41, (rows, hidden)),
        "reward": torch.randint(1, 6, (rows, length)).float(),
        "strength": torch.rand(rows),
    }


@pytest.mark.parametrize(
    ("made", "known"),
    [
        (lambda: policy("sasrec", feedback=True), True),
        pytest.param(lambda: Rerank(policy(), reward(), 0.7).eval(), False, marks=pytest.mark.long),
        pytest.param(lambda: coded(), False, marks=pytest.mark.long),
        pytest.param(lambda: small.with_memory(coded()), False, marks=pytest.mark.long),
    ],
)
def test_the_written_graph_takes_any_size(made, known, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    graph = Graph(part_of(made()), 5, known).eval()
    with torch.no_grad():
        tables = {name: table.detach().contiguous() for name, table in graph.part.tables().items()}
    write(graph, tables, 32, tmp_path / "policy.onnx")
    session = runtime.InferenceSession(tmp_path / "policy.onnx")
    for rows, length, hidden in ((1, 1, 1), (1, 32, 40), (2, 7, 1), (5, 32, 3)):
        sizes = some(rows, length, hidden)
        given = {name: sizes[name] for name in graph.inputs} | tables
        with torch.no_grad():
            own = graph(given)[1:]
        other = session.run(OUTPUTS[1:], {name: one.numpy() for name, one in given.items()})
        torch.testing.assert_close(own, tuple(map(torch.from_numpy, other)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("strength", [0.4, 0.0])
def test_without_a_history_the_item_prior_answers_and_without_one_popularity(strength):
    made = policy()
    made.prior_strength = strength
    graph = Graph(part_of(made), 5, False).eval()
    none = torch.zeros(2, 4, dtype=torch.long)
    given = {"item": none, "time": none, "length": torch.zeros(2, dtype=torch.long), "hidden": none}
    popular = SameForAll((strength or 1.0) * made.prior.log_count_V)  # at 1 the row of the comparison
    with torch.no_grad():
        own_TV = graph(given | graph.part.tables())[2][:, 1:].log_softmax(dim=1)
        torch.testing.assert_close(own_TV, popular.log_probs(torch.zeros(2, 1)))


def test_a_policy_without_a_graph_says_so(log_root):
    from recalign.errors import InputError

    with pytest.raises(InputError, match="class SameForAll cannot be exported"):
        part_of(SameForAll(torch.zeros(3)))
