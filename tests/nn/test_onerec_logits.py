"""Logits of children: the ways to compute them agree."""

from __future__ import annotations

import pytest
import torch

from recalign.nn import NodeLogits, Trie

ITEMS, SIZES, STATES = 20, [3, 4, 5], 4


def trie() -> Trie:
    made = Trie(ITEMS, SIZES)
    leaf_V = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:ITEMS]
    made.set_codes(torch.stack(torch.unravel_index(leaf_V, SIZES), dim=1))
    return made


@torch.no_grad()
@pytest.mark.parametrize("temperature", [None, 0.05])
@pytest.mark.parametrize("dim", [1, 8])  # narrow states gather vectors, wide ones multiply with all of them
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_child_has_the_product_with_its_own_vector_or_their_cosine(temperature, dim, depth):
    tree, head = trie(), NodeLogits(dim, ITEMS, SIZES, temperature)
    node_N = torch.arange(tree.nodes(depth))
    child_NF, exists_NF = tree.children_of(depth, node_N)
    h_TND = torch.randn(STATES, len(node_N), dim)
    vector_NFD = head.vectors[depth][child_NF]
    expected_TNF = torch.einsum("tnd,nfd->tnf", h_TND, vector_NFD)
    if temperature is not None:
        expected_TNF = torch.cosine_similarity(h_TND[:, :, None], vector_NFD, dim=-1) / temperature
    for child in (child_NF, child_NF.expand(STATES, -1, -1)):
        logit_TNF = head(tree, depth, h_TND, child)
        torch.testing.assert_close(logit_TNF[:, exists_NF], expected_TNF[:, exists_NF])
        with torch.autocast("cpu", torch.bfloat16):
            assert head(tree, depth, h_TND, child).equal(logit_TNF)
            assert head(tree, depth, h_TND.bfloat16(), child).equal(head(tree, depth, h_TND.bfloat16().float(), child))


def test_a_level_has_as_many_vectors_as_nodes_can_be():
    assert [len(vector_MD) for vector_MD in NodeLogits(2, ITEMS, SIZES).vectors] == [3, 12, 20]
