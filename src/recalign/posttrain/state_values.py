"""State values of the starting policy: ``data.baseline`` ``value`` and ``soft``.

Shape suffixes: T targets, V items of the catalogue.
"""

from __future__ import annotations

import numpy as np
import torch

from recalign.data.sequences import Windows
from recalign.posttrain.data import PostTrainingData
from recalign.recommender.checkpoint import Loaded, load_or_copy
from recalign.recommender.policy import Policy, chunks
from recalign.recommender.prior import training_pass
from recalign.reward.data import RewardData


def starting_policy(data: RewardData, path: str | None, given: Policy | Loaded | None, needed_by: str) -> Policy:
    """Load the starting policy, in evaluation mode, to compute training data from it.

    Like losses, callers use it without its item prior and memory, in a `recalign.recommender.prior.training_pass`.

    Args:
        data: the log; its catalogue must be the policy's.
        path: the checkpoint, ``data.init_from``.
        given: the policy itself, instead of a checkpoint; copied.
        needed_by: what needs the policy, for the message.

    Raises:
        InputError: there is no policy, or it does not fit the data.
    """
    loaded = load_or_copy(path, given, "policy", where="data.init_from", needed_by=needed_by)
    loaded.check(data)
    policy: Policy = loaded.net
    return policy.eval()


@torch.no_grad()
def state_values(data: PostTrainingData, windows: Windows) -> np.ndarray:
    """Value of each target's state under the start, without its item prior and memory.

    V(s) = E_{a ~ pi}[r(s, a)], or for ``soft``, with lambda = ``data.soft``,
    V(s) = lambda log E_{a ~ pi}[exp(r(s, a) / lambda)], the log normaliser of the exponential tilt:
    pi exp((r - V) / lambda) sums to 1.

    Shape: float64 (events,), NaN for events that are not targets.
    """
    needed_by = f"baseline {data.baseline!r}"
    policy = starting_policy(data, *data.start_args, needed_by).to(data.device)
    reward = data.loaded_reward_model(needed_by).net
    value_E = torch.full((len(data.logged_rewards),), torch.nan)
    with training_pass(policy):
        for batch in data.batches(windows):
            pi_state, r_states = policy.encode(batch), reward.states(batch)
            for part in chunks(len(pi_state), policy.num_items):
                logp_TV = policy.log_probs(pi_state[part])
                r_TV = reward.predict(r_states[:, part])
                if data.baseline == "soft":
                    value_T = data.soft * (logp_TV + r_TV / data.soft).logsumexp(dim=1)
                else:
                    value_T = (logp_TV.exp() * r_TV).sum(dim=1)
                value_E[batch.event_T[part].cpu()] = value_T.cpu()
    return value_E.double().numpy()
