"""`recalign export` on the rows of a chain, and of a policy over codes, as a user runs it."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import pytest
import small
import tiny

from recalign.errors import InputError
from recalign.evaluation.roles import Roles
from recalign.nn import LazyDecoder
from recalign.recommender import CodePolicy, RecommenderData
from recalign.recommender.onerec import random_codes
from recalign.run.stage.opened import OpenedRun
from recalign.serve.export import command
from recalign.serve.export.command import bundle_of
from recalign.serve.server import load_bundle
from recalign.serve.server.about import of_chain

pytest.importorskip("onnxruntime", reason="the bundle's packages are not installed: pip install 'recalign[serve]'")
pytest.importorskip("onnxscript", reason="the exporter is not installed: pip install 'recalign[serve]'")


@pytest.mark.long
def test_the_rows_of_a_chain(tmp_path):
    folder = tiny.prepare(tmp_path)
    assert tiny.chain(folder).code == 0
    for row, kind in (("asft", "items"), ("rerank", "rerank")):
        run = f"runs/tiny/{row}/seed-0"
        said = tiny.recalign(folder, "export", run)
        assert said.code == 0, said.err
        assert re.search(r"([1-9]\d*) of \1 lists of 10 are those of the policy", said.out)
        bundle = load_bundle(folder / run / "bundles")
        assert bundle.about.kind == kind
        request = {"items": bundle.catalogue.ids[:4], "times": [10, 20, 30, 40]}
        request |= {"rewards": [1.0, 5.0, None, 3.0]} if kind == "rerank" else {}
        followed = bundle.recommend(request).items
        assert len(followed) == 10
        if kind == "rerank":
            assert bundle.recommend({**request, "strength": 50.0}).items[0] != followed[0]
        card = (bundle.folder / "README.md").read_text()
        assert "The chain's decision" in card
    said = tiny.recalign(folder, "export", "runs/tiny")
    assert said.out.splitlines()[-1] == "recalign serve runs/tiny"
    answer, start = of_chain(folder / "runs/tiny")
    assert start == folder / "runs/tiny/recommender/seed-0/bundles"
    assert load_bundle(folder / "runs/tiny").version.startswith(answer.parent.parent.name)
    wrong = tiny.recalign(folder, "export", "runs/tiny/reward/seed-0")
    assert wrong.code == 2
    assert "recommends nothing" in wrong.err


def test_a_chain_is_its_answer_and_its_start(tmp_path, monkeypatch):
    compared = SimpleNamespace(roles=Roles("mine"), table=lambda: SimpleNamespace(seeds=["3"]))
    monkeypatch.setattr(command.Sources, "of", lambda _: compared)
    (tmp_path / "chain.json").write_text('{"chain": {"recommender": "base"}}')
    assert command.chain_runs(tmp_path) == [tmp_path / "mine/seed-3", tmp_path / "base/seed-3"]
    (tmp_path / "chain.json").write_text("[1]")
    with pytest.raises(InputError, match=r"chain\.json: is not a JSON object"):
        command.chain_runs(tmp_path)
    compared.roles = Roles(None)
    with pytest.raises(InputError, match="compares no method"):
        command.chain_runs(tmp_path)
    with pytest.raises(InputError, match="two bundles"):
        command.export(tmp_path, out=tmp_path / "out")


@pytest.mark.long
def test_a_policy_over_codes(log_root, tmp_path):
    data = small.data_of(RecommenderData, log_root, "tastes", users="all")
    sizes = [math.isqrt(data.num_items - 1) + 1] * 2
    policy = CodePolicy(LazyDecoder(16, layers=1, max_length=32), data.num_items, sizes)
    policy.set_codes(random_codes(data.num_items, sizes))
    made = OpenedRun(tmp_path / "runs/tastes/recommender/seed-0", policy.eval(), data, {})
    folder, found = bundle_of(made, tmp_path / "bundles")
    assert found is not None
    assert found.lists + found.tied == found.targets == 360
    assert load_bundle(folder).about.kind == "codes"
