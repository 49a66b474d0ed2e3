"""The trie: items to codes and back, the tree between them, and the logits of its nodes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recalign.nn import NodeLogits, Trie


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[list[int], Tensor]:
    """Sizes of one to four levels, and unique codes."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    numbers = draw(st.lists(st.integers(0, math.prod(sizes) - 1), min_size=1, max_size=40, unique=True))
    return sizes, torch.stack(torch.unravel_index(torch.tensor(numbers), sizes), dim=1)


def made(sizes: list[int], codes_VS: Tensor) -> Trie:
    trie = Trie(len(codes_VS), sizes)
    trie.set_codes(codes_VS)
    return trie


@given(catalogues())
def test_trie_path_of_an_item_spells_its_codes(catalogue):
    trie = made(*catalogue)
    codes_VS = catalogue[1]
    node_V = torch.zeros(len(codes_VS), dtype=torch.long)
    for level in range(trie.levels):
        child_V = trie.node_VS[:, level]
        assert trie.code(level + 1)[child_V].equal(codes_VS[:, level])
        assert trie.parent(level + 1)[child_V].equal(node_V)
        node_V = child_V
    assert trie.item_V[node_V].tolist() == list(range(1, len(codes_VS) + 1))


@given(catalogues())
def test_trie_nodes_have_one_parent_each(catalogue):
    trie = made(*catalogue)
    prefixes = [len(set(map(tuple, catalogue[1][:, :depth].tolist()))) for depth in range(trie.levels + 1)]
    for depth in range(trie.levels):
        node_N = torch.arange(trie.nodes(depth))
        child_NF, exists_NF = trie.children_of(depth, node_N)
        assert child_NF[exists_NF].tolist() == list(range(prefixes[depth + 1]))
        parent_NF = trie.parent(depth + 1)[child_NF]
        assert (parent_NF == node_N[:, None])[exists_NF].all()
        place_NF = torch.arange(child_NF.shape[1]).expand_as(child_NF)
        assert trie.place(depth + 1, child_NF)[exists_NF].equal(place_NF[exists_NF])


@given(catalogues())
def test_trie_below_sums_counts_over_a_prefix(catalogue):
    trie = made(*catalogue)
    codes = catalogue[1].tolist()
    count_V = torch.arange(len(codes))
    for depth in range(1, trie.levels + 1):
        below_N = trie.below(depth, count_V)
        for item, code in enumerate(codes):
            alike = [other for other, its in enumerate(codes) if its[:depth] == code[:depth]]
            assert below_N[trie.node_VS[item, depth - 1]] == sum(alike)


def test_trie_state_dict_restores_the_tree():
    codes_VS = torch.tensor([[2, 0], [0, 1], [2, 2], [1, 1]])
    there, here = made([3, 3], codes_VS), Trie(4, [3, 3])
    here.load_state_dict(there.state_dict())
    assert list(there.state_dict()) == ["codes_VS"]
    assert here.item_V.equal(there.item_V)
    assert here.children_of(1, torch.arange(3))[1].equal(there.children_of(1, torch.arange(3))[1])
    assert here.fans == there.fans == [3, 2]


@pytest.mark.parametrize("codes", [[[0, 0], [0, 1], [0, 3]], [[0, 0], [0, 1], [-1, 1]], [[0, 0], [0, 1], [0, 1]]])
def test_set_codes_refuses_codes_that_name_no_item(codes):
    with pytest.raises(ValueError, match="unique, and below the sizes"):
        made([2, 3], torch.tensor(codes))


ITEMS, SIZES, STATES = 20, [3, 4, 5], 4


@torch.no_grad()
@pytest.mark.parametrize("temperature", [None, 0.05])
@pytest.mark.parametrize("dim", [1, 8])  # narrow states gather vectors, wide ones multiply with all of them
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_node_logits_are_products_or_cosines_with_node_vectors(temperature, dim, depth):
    leaf_V = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:ITEMS]
    tree = made(SIZES, torch.stack(torch.unravel_index(leaf_V, SIZES), dim=1))
    head = NodeLogits(dim, ITEMS, SIZES, temperature)
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


def test_node_logits_have_a_vector_for_each_possible_node():
    assert [len(vector_MD) for vector_MD in NodeLogits(2, ITEMS, SIZES).vectors] == [3, 12, 20]
