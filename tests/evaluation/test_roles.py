"""No module of the evaluation knows a trained method by name."""

import re
from pathlib import Path

import pytest

from recalign.errors import InputError
from recalign.evaluation.chain_comparison import ROLES, load_roles, save_roles
from recalign.evaluation.roles import Roles
from recalign.files import write_json

ROOT = Path(__file__).parents[2]
TRAINED = {path.stem for path in (ROOT / "conf" / "methods").glob("*.yaml")}
TRAINED -= {"rerank_permuted"}  # a reward model; its row is a reranking, which this package makes


@pytest.mark.parametrize("path", sorted((ROOT / "src/recalign/evaluation").glob("*.*")), ids=lambda path: path.name)
def test_no_trained_method_is_named(path):
    named = set(re.findall(r"[\"'`>](\w+?)(?:_rerank)?[\"'`<]", path.read_text(encoding="utf-8"))) & TRAINED
    assert named <= (
        {"bc"} if path.name in ("roles.py", "names.py") else set()
    )  # continued cloning: a baseline unless said otherwise


def test_roles_are_read_as_they_were_written(tmp_path):
    roles = Roles("mine", {"sham": "mine"}, ["start"])
    save_roles(tmp_path, roles, ["start", "mine"])
    assert load_roles(tmp_path) == (roles, ["start", "mine"])
    assert load_roles(tmp_path / "older") == (Roles(), [])


@pytest.mark.parametrize(
    ("content", "named"),
    [({"highlight": "a", "sham": {}, "extra": 1}, "unknown role sham, extra"), ([], "needs a JSON object, not a list")],
)
def test_unknown_role_is_refused_with_its_file(tmp_path, content, named):
    write_json(tmp_path / ROLES, content)
    with pytest.raises(InputError, match=rf"roles\.json: {named}(?s:.*)recalign chain"):
        load_roles(tmp_path)


def test_a_reranked_row_goes_by_the_roles_of_its_method_and_of_reranking():
    roles = Roles(placebos={"sham": "mine", "sham_scores": "rerank"})
    assert roles.placebos_of("mine_rerank") == ["sham", "sham_scores"]
    assert roles.candidates(["start_without_memory", "mine", "sham", "sham_rerank", "mine_rerank"]) == [
        "mine",
        "mine_rerank",
    ]
    assert Roles(placebos={}).without_placebo("bc_rerank") == ["rerank"]
