"""What others build on: public names, and the version wherever it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import recalign

ROOT = Path(__file__).parents[1]
SINCE_0_9 = {
    *("Comparison", "InputError", "Log", "TrainedPolicy", "TrainedReward", "TrainingError"),
    *("align", "compare", "fit_judge", "fit_recommender", "fit_reward", "load_policy", "load_reward"),
}
"""Public names of the last release."""


def removed(changelog: str) -> str:
    """What the newest section of the changelog says of names that are gone."""
    newest = changelog.split("\n## ")[1]
    return "".join(part for part in newest.split("\n### ")[1:] if part.startswith(("Removed", "Deprecated")))


def test_a_public_name_goes_only_with_a_word_in_the_changelog():
    said = removed((ROOT / "CHANGELOG.md").read_text())
    assert [name for name in sorted(SINCE_0_9 - set(recalign.__all__)) if f"`{name}`" not in said] == []


@pytest.mark.parametrize("name", recalign.__all__)
def test_public_names_can_be_imported_and_say_what_they_are(name: str):
    assert getattr(recalign, name).__doc__


def test_the_section_that_names_what_is_gone_is_found():
    log = "# Changelog\n\n## Unreleased\n\n### Removed\n\n- `old`\n\n## 0.9\n\n### Removed\n\n- `older`\n"
    assert "`old`" in removed(log)
    assert "`older`" not in removed(log)


def test_the_citation_and_the_foot_of_each_page_are_of_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == recalign.__version__
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text())["copyright"] == f"recalign {recalign.__version__}"
