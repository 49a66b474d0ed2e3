"""Add new items to a trained policy over semantic ids: it knows their codes.

Where a policy has something for each item (the input vector, and the count behind the item prior) or for each node of
the trie, a new one gets the mean of its nearest relatives': those below the deepest common prefix of
codes. With a softmax over cosines the lengths of a head's vectors mean nothing, so their directions are averaged. A
count of 0 would say that users left an item out that they could have chosen.

Shape suffixes:
    V  items      X  these and the new ones      S  levels      D  width      E  width and a count
    N  items, or nodes of one depth
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recalign.data.events.items import log_ids
from recalign.errors import InputError
from recalign.nn import unit
from recalign.recommender.checkpoint import build, recipe
from recalign.recommender.onerec_policy import CodePolicy
from recalign.recommender.policy import Policy
from recalign.recommender.semantic_ids.codes import CodesTable


def with_new_items(policy: Policy, codes: str | Path, items: pl.Series) -> tuple[CodePolicy, pl.Series]:
    """A copy of a policy that can also write the further items of a file of codes.

    Args:
        policy: over semantic ids; left as it is.
        codes: what ``recalign tokenize --append`` wrote.
        items: raw item ids of the policy's catalogue, `Sequences.items`.

    Returns:
        The copy, and the raw ids of its items: those of the catalogue first.

    Raises:
        InputError: the policy is not over semantic ids, or the file lacks one of its items or gives it other codes.
    """
    if not isinstance(policy, CodePolicy):
        raise InputError(
            f"{type(policy).__name__} has no codes, so it can be given no new items",
            where=str(codes),
            remedy="leave the codes out, or recommend with a run of recommender-onerec or one aligned from it",
        )
    table, trie = CodesTable.read(codes), policy.trie
    known_V = table.rows(items, str(codes))
    if list(table.sizes) != trie.sizes or (table.codes_NL[known_V] != trie.codes_VS.cpu().numpy()).any():
        remedy = "give what recalign tokenize --append made of the codes that it was trained with"
        raise InputError("the policy was trained with other codes of its items", where=str(codes), remedy=remedy)
    new = np.setdiff1d(np.arange(len(table.items)), known_V)
    added = table.items.gather(new)
    ids = log_ids(added, items).alias(items.name)
    if ids.null_count():
        other = added.filter(ids.is_null())[0]
        what = f"the new item {other!r} cannot be an id of this log, whose ids are {items.dtype}"
        raise InputError(what, where=str(codes), remedy="give new items ids of the log's type")
    codes_XS = torch.tensor(table.codes_NL[np.concatenate([known_V, new])])
    return appended(policy, codes_XS), pl.concat([items, ids])


@torch.no_grad()
def appended(policy: CodePolicy, codes_XS: Tensor) -> CodePolicy:
    """A copy of a policy over a larger catalogue, whose first V rows are the policy's own. Shape: int64 (X >= V, S)."""
    plan = recipe(policy)
    plan["init_args"]["num_items"] = len(codes_XS)
    grown: CodePolicy = build(plan).to(policy.start.device)
    grown.set_codes(codes_XS.to(policy.start.device))
    weights, items = policy.state_dict(), policy.num_items
    fresh = grown.state_dict() | {name: x for name, x in weights.items() if x.shape == grown.state_dict()[name].shape}
    fresh["trie.codes_VS"] = grown.trie.codes_VS
    known_X = torch.arange(len(codes_XS), device=policy.start.device) < items
    own_VE = torch.cat([policy.item_embedding.weight[1:], policy.count_V[:, None]], dim=1)
    own_XE = torch.nn.functional.pad(own_VE, (0, 0, 0, len(codes_XS) - items))
    relatives = [grown.trie.node_VS[:, depth] for depth in reversed(range(grown.trie.levels - 1))]
    inherited_XE = _inherited(own_XE, known_X, relatives)
    fresh["item_embedding.weight"] = torch.cat([policy.item_embedding.weight[:1], inherited_XE[:, :-1]])
    fresh["count_V"] = inherited_XE[:, -1]
    for depth in range(1, policy.trie.levels + 1):
        fresh[f"head.vectors.{depth - 1}"] = _node_vectors(policy, grown, depth)
    grown.load_state_dict(fresh)
    return grown.train(policy.training)


def _node_vectors(policy: CodePolicy, grown: CodePolicy, depth: int) -> Tensor:
    """Vectors of the larger trie's nodes of a depth, from the smaller one's."""
    old, new = policy.trie, grown.trie
    before_MD, after_MD = policy.head.vectors[depth - 1], grown.head.vectors[depth - 1].clone()
    row_ND = before_MD.new_zeros(new.nodes(depth), before_MD.shape[1])
    known_N = torch.zeros(len(row_ND), dtype=torch.bool, device=row_ND.device)
    node_V = new.node_VS[: policy.num_items, depth - 1]
    row_ND[node_V] = before_MD[old.node_VS[:, depth - 1]]
    known_N[node_V] = True
    known_ND = row_ND if policy.head.temperature is None else unit(row_ND)
    ancestors = [torch.arange(len(row_ND), device=row_ND.device)]
    for above in range(depth, 1, -1):
        ancestors.append(new.parent(above)[ancestors[-1]])
    inherited_ND = _inherited(known_ND, known_N, ancestors[1:])
    after_MD[: len(row_ND)] = torch.where(known_N[:, None], row_ND, inherited_ND)
    return after_MD


def _inherited(row_ND: Tensor, known_N: Tensor, relatives: list[Tensor]) -> Tensor:
    """Fill unknown rows with the mean of known rows in the nearest group, else of all."""
    filled_N, row_ND, origin_ND = known_N.clone(), row_ND.clone(), row_ND[known_N]
    for group_N in [*relatives, torch.zeros_like(known_N, dtype=torch.long)]:
        own = group_N[known_N]
        count_G = own.bincount(minlength=int(group_N.max()) + 1)
        sum_GD = row_ND.new_zeros(len(count_G), row_ND.shape[1]).index_add_(0, own, origin_ND)
        now_N = ~filled_N & (count_G[group_N] > 0)
        row_ND[now_N] = (sum_GD / count_G[:, None])[group_N[now_N]]
        filled_N |= now_N
    return row_ND
