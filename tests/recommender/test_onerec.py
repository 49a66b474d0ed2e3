"""Cloning of a policy over codes, from the log to a checkpoint and on to post-training."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl
import pytest
import small
import torch
import yaml

from recalign.errors import InputError
from recalign.nn import HSTU, LazyDecoder
from recalign.recommender import OneRecRecommender, Recommender, RecommenderData
from recalign.recommender.checkpoint import load_net
from recalign.recommender.onerec import random_codes

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def data(log_root):
    return small.data_of(RecommenderData, log_root)


def made(data, **settings: object) -> OneRecRecommender:
    torch.manual_seed(0)
    decoder = settings.pop("decoder", LazyDecoder(16, layers=1, max_length=32, dropout=0.0))
    return OneRecRecommender(data.num_items, decoder=decoder, **settings)  # type: ignore[arg-type]


def codes_file(data, folder: Path, items: pl.Series | None = None) -> str:
    """Codes of a log's items, in an order of their own."""
    items = data.sequences.items.reverse() if items is None else items
    path = folder / "codes.parquet"
    codes = {f"code_{level}": column.numpy() for level, column in enumerate(random_codes(len(items), [8, 9, 2]).T)}
    pl.DataFrame({"item": items, **codes}).write_parquet(path)
    return str(path)


@pytest.mark.parametrize("temperature", [None, 0.5])
def test_cloning_learns_the_log(data, tmp_path, temperature):
    watch = small.fit(made(data, temperature=temperature, lr=1e-2), data, tmp_path, epochs=8)
    assert watch.steps[-1]["train/loss"] < math.log(data.num_items) - 0.1  # better than knowing nothing


def test_onerec_checkpoint_keeps_codes_and_probabilities(data, tmp_path):
    module = made(data, codes=codes_file(data, tmp_path), temperature=0.5)
    small.fit(module, data, tmp_path)
    policy = load_net(small.saved(module, tmp_path / "a.ckpt"), "policy").net.eval()
    assert policy.trie.sizes == [8, 9, 2]
    row_of = {item: row for row, item in enumerate(data.sequences.items.reverse())}
    expected_VS = random_codes(data.num_items, [8, 9, 2])[[row_of[item] for item in data.sequences.items]]
    assert policy.trie.codes_VS.equal(expected_VS)
    batch, trained = small.batch_of(data), module.policy.eval()
    with torch.no_grad():
        logp_TV = policy.log_probs(policy.encode(batch))
        torch.testing.assert_close(logp_TV, trained.log_probs(trained.encode(batch)))


def test_onerec_warm_start_refuses_other_codes(data, tmp_path):
    module = made(data)
    small.fit(module, data, tmp_path, limit_train_batches=1)
    start = str(small.saved(module, tmp_path / "a.ckpt"))
    small.fit(made(data, init_from=start), data, tmp_path, limit_train_batches=1)
    levels = module.policy.trie.sizes
    items = pl.DataFrame({"item": data.sequences.items})
    codes_VS = random_codes(data.num_items, levels).flip(0).numpy()
    path = tmp_path / "other.parquet"
    items.with_columns(code_0=codes_VS[:, 0], code_1=codes_VS[:, 1]).write_parquet(
        path, metadata={"sizes": str(levels)}
    )
    with pytest.raises(InputError, match="it was trained with other codes"):
        small.fit(made(data, codes=str(path), init_from=start), data, tmp_path)


def test_onerec_refuses_codes_of_another_catalogue_before_training(data, tmp_path):
    other = data.sequences.items.head(data.num_items - 2)
    module = made(data, codes=codes_file(data, tmp_path, other))
    with pytest.raises(InputError, match=f"2 of the catalogue's {data.num_items} items have no id"):
        small.fit(module, data, tmp_path)


def test_onerec_refuses_too_few_codes(data, tmp_path):
    with pytest.raises(InputError, match=r"model.sizes: .* do not fit into 2 x 3 codes"):
        made(data, sizes=[2, 3])
    for sizes in ([-8, -8], [2**31, 2**31]):
        with pytest.raises(InputError, match=r"model.sizes: .* do not fit into"):
            made(data, sizes=sizes)
    with pytest.raises(InputError, match="no such file of semantic ids"):
        made(data, codes=str(tmp_path / "none.parquet"))


def test_onerec_is_the_same_from_yaml_and_from_python():
    lines = yaml.safe_load((CONF / "stages/recommender-onerec.yaml").read_text())["model"]["init_args"]
    decoder = lines.pop("decoder")["init_args"] | {"max_length": 200}
    python = OneRecRecommender(99)
    assert lines == {key: python.hparams[key] for key in lines}
    assert decoder == {key: python.policy.decoder.init_args[key] for key in decoder}
    otherwise = {"beam", "sizes", "memory"}  # null in the YAML, by the catalogue; and a memory is given at the end
    handed_on = (lines.keys() & python.policy.init_args.keys()) - otherwise
    assert handed_on > {"temperature", "widest"}
    assert {key: lines[key] for key in handed_on} == {key: python.policy.init_args[key] for key in handed_on}


def test_onerec_warm_start_from_item_ids_loads_matching_weights(data, tmp_path):
    other = Recommender(data.num_items, HSTU(16, layers=1, max_length=32, dropout=0.0))
    small.fit(other, data, tmp_path, limit_train_batches=1)
    start = str(small.saved(other, tmp_path / "hstu.ckpt"))
    module = made(data, codes=codes_file(data, tmp_path), init_from=start)
    assert module.policy.item_embedding.weight.equal(other.policy.item_embedding.weight)
    small.fit(module, data, tmp_path, limit_train_batches=1)
