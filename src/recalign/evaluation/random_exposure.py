"""Value policies on the items that a log showed at random: from histories to the `Lists` of `offpolicy`.

Exposures are the test's events with ``is_random``, a known ``propensity`` and a reward; those without a reward are
only counted. The policy is renormalised over the items that the user had not met, as for the true value; an item that
training never saw has pi = 0.

Suffixes: T targets, V items, N exposures, K members, S what a state holds.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recalign.data.sequences import Batch, EventDataModule
from recalign.data.sequences.store import Group
from recalign.evaluation.counted_rows import SameForAll
from recalign.evaluation.methods import MethodRun, Networks
from recalign.evaluation.offpolicy import Lists, estimate, of_items
from recalign.evaluation.value import over_unseen
from recalign.recommender.policy import Policy, chunks
from recalign.reward import RewardEnsemble

FILE = "offpolicy.json"
HEADLINES = ("ips", "snips", "dr")
UNIFORM = "uniform"  # no method has this name


def of_methods(nets: Networks, policies: Mapping[MethodRun, Policy], events: Any) -> dict[str, Any]:
    """Off-policy estimates of each method (`methods.Measure`), if the log has random exposures with propensities.

    `FILE` has a method's ``policy`` (`offpolicy.PolicyValue.figures`), and ``uniform``: the same of the uniform
    policy. Under uniform logging its value has to be near ``observed``, with a mean weight near 1.
    """
    data = nets.data
    if data.log_.is_random is None or data.log_.propensity is None:
        return {}
    named: dict[str, Policy] = {run.method: policy for run, policy in policies.items()}
    named[UNIFORM] = SameForAll(torch.zeros(data.num_items))
    shown = exposures(named, nets.reward, data, nets.device)
    figures = {name: estimate(lists).figures() for name, lists in shown.items()}
    values: dict[str, Any] = {}
    for name in named.keys() - {UNIFORM}:
        of_table = {f"value/{key}": figures[name][key] for key in HEADLINES if key in figures[name]}
        files = {FILE: {"policy": figures[name], "uniform": figures[UNIFORM]}}
        values[name] = {"offpolicy/ess": figures[name]["ess"]["list"]} | of_table, files
    return values


@torch.no_grad()
def exposures(
    policies: Mapping[str, Policy],
    reward: RewardEnsemble,
    data: EventDataModule,
    device: torch.device,
    users: Group = "A",
) -> dict[str, Lists]:
    """The test's exposures, in the order of the event table, scored by each policy and a reward model.

    Those to users who had met every item are left out: there is nothing that a policy could have shown instead.
    """
    asked = copy.copy(data)
    asked.skipped_targets = ("test",)
    windows, frame = asked.windows("test", users), data.sequences.impressions
    drawn = frame["is_random"] & frame["propensity"].is_not_null()
    windows = windows.keep(drawn.to_numpy()[windows.event])
    known_N = frame["reward"].is_not_null().to_numpy()[windows.event]
    windows, unknown = windows.keep(known_N), int((~known_N).sum())
    nets: list[nn.Module] = [*policies.values(), reward]
    for net in nets:
        net.eval().to(device)
    events = [torch.zeros(0, dtype=torch.int64)]
    terms = {name: [torch.zeros(4, 0)] for name in policies}
    for read in data.loader(windows):
        batch = read.to(device)
        states_KTS = reward.states(batch)
        events.append(read.event_T)
        for name, policy in policies.items():
            terms[name].append(_terms(policy, policy.encode(batch), reward, states_KTS, batch).cpu())
    event_N = torch.cat(events).numpy()
    order = np.argsort(event_N)
    shown = frame[event_N[order]]
    user_N, reward_N, beta_N = (shown[name].to_numpy() for name in ("user", "reward", "propensity"))
    made = {}
    for name, parts in terms.items():
        *said, total_N = torch.cat(parts, dim=1).double().numpy()[:, order]
        columns = (user_N, reward_N, beta_N, *said)
        user, reward_of, beta, target, predicted, direct = (column_N[total_N != 0] for column_N in columns)
        made[name] = of_items(user, reward_of, beta, target, predicted, direct, unknown)
    return made


def _terms(policy: Policy, state: Any, reward: RewardEnsemble, states_KTS: Tensor, batch: Batch) -> Tensor:
    """Four terms of each target, computed in chunks: states x items may not fit into memory.

    pi(a | s), q(s, a), sum_v pi(v | s) q(s, v), and sum_v pi(v | s), 0 where every item was met. Shape: (4, T).
    """
    parts = []
    assert batch.seen_N is not None
    for part in chunks(len(state), policy.num_items):
        p_TV = over_unseen(policy.log_probs(state[part]), batch.seen_N, part)
        q_TV = reward.predict(states_KTS[:, part])
        item_T = batch.target_T[part]
        column_T1 = (item_T - 1).clamp(min=0)[:, None]
        shown = (p_TV.gather(1, column_T1)[:, 0] * (item_T > 0), q_TV.gather(1, column_T1)[:, 0])
        parts.append(torch.stack([*shown, (p_TV * q_TV).sum(dim=1), p_TV.sum(dim=1)]))
    return torch.cat(parts, dim=1)
