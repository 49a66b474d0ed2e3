"""The workspace is built without a network."""

import json

import pytest
import wandb

from recalign.cli import main
from recalign.errors import InputError
from recalign.run.chain.published import dashboard, workspace


def test_workspace_has_sections_for_stages_methods_over_optimisation_and_sweeps():
    made = workspace("us", "shop")
    sections = {section.name: section.panels for section in made.sections}
    assert list(sections) == [
        *("1. Recommender", "2. Reward model", "3. Post-training", "Methods", "Over-optimisation", "Sweep", "Speed")
    ]
    drawn = json.dumps(json.loads(made._to_model().model_dump_json()))  # what would be sent
    for word in (
        "rank/all/ndcg@10",
        "test/value/judge@10/dpo",
        "test/value/reward_model@10/asft",
        "test/policy/kl/asft_rerank",
        "policy/kl",
        "report",
    ):
        assert word in drawn, word
    assert (made.entity, made.project) == ("us", "shop")


def test_a_dry_run_lists_the_panels(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("wandb.login", lambda **_: pytest.fail("asked"))
    assert main(["dashboard", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "Over-optimisation" in out
    assert "value/select_judge@10" in out


def test_without_an_account_it_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("wandb.login", lambda **_: False)
    with pytest.raises(InputError, match="no W&B account"):
        dashboard()


def test_a_key_that_is_refused_is_said(monkeypatch: pytest.MonkeyPatch):
    def refuse(**_: object) -> None:
        raise wandb.errors.AuthenticationError("invalid key")

    monkeypatch.setattr("wandb.login", refuse)
    with pytest.raises(InputError, match="invalid key"):
        dashboard()


def test_dashboard_reports_what_the_server_refuses(monkeypatch: pytest.MonkeyPatch):
    def refuse(self: object) -> None:
        raise ValueError("no such project")

    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.save", refuse)
    with pytest.raises(InputError, match="no such project"):
        dashboard("us", "shop")


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(InputError, match=r"recalign\[dashboard\]"):
        workspace("us", "shop")
