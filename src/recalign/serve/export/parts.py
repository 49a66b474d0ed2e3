"""Parts of the exported graph that compute log-probabilities of all items: of policies over item ids and over codes.

Every table with a row per item, or a row per node of a trie, is an input of the graph (`Part.tables`): items can be
added without an exporter, and the graph stays small. Row 0 of an item table is the padding item. Its logit is always
-inf, so that 0 can stand for no item.

Shape suffixes: B histories, L events, V items, N = V + 1 rows of a table, D width, T = B targets, U x M a grid of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from recalign.nn import Window, unit
from recalign.recommender import CodePolicy, SequencePolicy
from recalign.recommender.memory import Recalled
from recalign.recommender.onerec_policy import CodeState
from recalign.serve.export.histories import GraphInputs, last_hidden
from recalign.serve.server.about import NODES


class Part(nn.Module):
    """Computes a score for every item from histories and tables."""

    needs: frozenset[str] = frozenset()
    """Further inputs of the graph: ``reward``, ``strength``."""

    def tables(self) -> dict[str, Tensor]:
        """Table inputs by name: (N, ...), row 0 the padding item. Names of node tables begin with `NODES`."""
        return {}

    def forward(self, h: GraphInputs, given: Mapping[str, Tensor]) -> Tensor:
        """Shape: -> (B, N)."""
        raise NotImplementedError


MEMORY_TABLES = {"memory_neighbour": "neighbour_WK", "memory_cosine": "cosine_WK"}
"""Item tables of a memory, and the buffers that they hold."""


class ItemPart(Part):
    """A `SequencePolicy`: cosines divided by the temperature, plus the item prior and the memory's scores.

    Item vectors are stored as unit vectors, which scores use, and lengths: histories use the product of both.
    """

    def __init__(self, policy: SequencePolicy) -> None:
        super().__init__()
        self.policy = policy
        self.needs = frozenset({"reward"} if policy.past_rewards is not None else ())

    def tables(self) -> dict[str, Tensor]:
        table_ND = self.policy.item_table().float()
        bias_N = F.pad(self.policy.prior_strength * self.policy.prior.log_count_V, (1, 0), value=-torch.inf)
        found = {"unit": unit(table_ND), "norm": torch.linalg.vector_norm(table_ND, dim=1), "bias": bias_N}
        if not self.policy.prior_strength:  # for empty histories, where all items would tie
            found["popular"] = F.pad(self.policy.prior.log_count_V, (1, 0), value=-torch.inf)
        if self.policy.recalls:
            found |= {name: self.policy.memory.get_buffer(buffer) for name, buffer in MEMORY_TABLES.items()}
        return found

    def forward(self, h: GraphInputs, given: Mapping[str, Tensor]) -> Tensor:
        x_BLD = F.embedding(h.item_BL, given["unit"]) * F.embedding(h.item_BL, given["norm"][:, None])
        if self.policy.past_rewards is not None:
            x_BLD = x_BLD + self.policy.past_rewards(h.reward_BL)
        state_BD = last_hidden(self.policy.encoder, x_BLD, h)
        state_BD = state_BD * (h.length_B > 0)[:, None]  # an empty history: only the item prior counts
        length_B1 = torch.linalg.vector_norm(state_BD, dim=1, keepdim=True).clamp(min=1e-12)
        logit_BN = (state_BD / length_B1) @ given["unit"].T / self.policy.temperature + given["bias"]
        if "memory_cosine" in given:
            memory, row_B = self.policy.memory, torch.arange(h.item_BL.shape[0])
            own = {buffer: given[name] for name, buffer in MEMORY_TABLES.items()}
            score_BV = functional_call(memory, own, (memory.newest_items(h.item_BL, row_B, h.newest_B),))
            logit_BN = logit_BN + memory.strength * F.pad(score_BV, (1, 0))
        if "popular" in given:
            logit_BN = torch.where((h.length_B > 0)[:, None], logit_BN, given["popular"])
        return logit_BN


class OnePerRow(Window):
    """The context of exactly one target per row: its grid is (T, 1)."""

    @property
    def grid(self) -> tuple[Tensor, int, Tensor]:
        return self.row_T, 1, self.row_T

    def lay(self, x_T: Tensor) -> Tensor:
        return x_T[:, None]

    def pick(self, x_UM: Tensor) -> Tensor:
        return x_UM[:, 0]


class CodePart(Part):
    """A `CodePolicy`: computes the probabilities of all code prefixes, level by level.

    A node table is named `NODES` plus its name in the policy.
    """

    def __init__(self, policy: CodePolicy) -> None:
        super().__init__()
        self.policy, self.walk = policy, Walk(policy)
        self.needs = frozenset({"reward"} if policy.past_rewards is not None else ())

    def tables(self) -> dict[str, Tensor]:
        policy = self.policy
        items = {
            "vectors": policy.item_embedding.weight,
            "leaf": F.pad(policy.trie.node_VS[:, -1], (1, 0)),
            # for empty histories, on which no decoder was trained
            "popular": F.pad((policy.count_V + 0.5).log(), (1, 0), value=-torch.inf),
        }
        names = ("trie.first_{0}", "trie.place_{0}", "trie.parent_{0}", "trie.code_{0}", "prior_{1}")
        levels = range(policy.trie.levels)
        nodes = {(own := name.format(n, n + 1)): policy.get_buffer(own) for n in levels for name in names}
        if policy.recalls:
            nodes |= {"trie.node_VS": policy.trie.node_VS}
            nodes |= {f"memory.{name}": buffer for name, buffer in policy.memory.named_buffers()}
        nodes |= {f"head.vectors.{n}": x[: policy.trie.nodes(n + 1)] for n, x in enumerate(policy.head.vectors)}
        return items | {NODES + name: table for name, table in nodes.items()}

    def forward(self, h: GraphInputs, given: Mapping[str, Tensor]) -> Tensor:
        nodes = {name.replace(NODES, "policy."): table for name, table in given.items() if name.startswith(NODES)}
        logp_BN = functional_call(self.walk, nodes, (h, given["vectors"])).index_select(1, given["leaf"])
        popular_N = given["popular"]
        return torch.where((h.length_B > 0)[:, None] & (popular_N > -torch.inf), logp_BN, popular_N)


class Walk(nn.Module):
    """Log-probabilities of all leaves of the trie, given histories."""

    def __init__(self, policy: CodePolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, h: GraphInputs, vector_ND: Tensor) -> Tensor:
        policy, row_B = self.policy, torch.arange(h.length_B.shape[0])
        x_BLD = F.embedding(h.item_BL, vector_ND)
        if policy.past_rewards is not None:
            x_BLD = x_BLD + policy.past_rewards(h.reward_BL)
        x_BLD = policy.encoder(x_BLD, h.length_B, h.time_BL, h.request_time_BL)
        window = OnePerRow(policy.decoder.keys(x_BLD), h.time_BL, h.request_time_BL, row_B, h.newest_B)
        h_B1D, past = policy.decoder(policy.start.expand(row_B.shape[0], -1)[:, None], window, None)
        recalled = None
        if (memory := policy.memory) is not None and policy.recalls:
            recalled = Recalled(memory, memory.newest_items(h.item_BL, row_B, h.newest_B))
            # The cached property works in chunks, and tracing would fix their number.
            vars(recalled)["score_TV"] = memory(recalled.newest_TM)
        return policy.walk(CodeState(window, past, h_B1D[:, 0], recalled), policy.trie.levels)[0]
