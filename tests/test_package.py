"""What others build on: public names, and the version wherever it stands."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import recalign

ROOT = Path(__file__).parents[1]
PLACEHOLDER = "https://example.invalid/recalign"
"""Stands for the repository's address until it has one."""
SINCE_1_0 = {
    *("Comparison", "InputError", "Log", "TrainedPolicy", "TrainedReward", "TrainingError"),
    *("align", "compare", "compare_rewards", "fit_judge", "fit_recommender", "fit_reward"),
    *("load_bundle", "load_policy", "load_reward"),
}
"""Public names of the last release."""


def removed(changelog: str) -> str:
    """What the newest section of the changelog says of names that are gone."""
    newest = changelog.split("\n## ")[1]
    return "".join(part for part in newest.split("\n### ")[1:] if part.startswith(("Removed", "Deprecated")))


def test_a_public_name_goes_only_with_a_word_in_the_changelog():
    said = removed((ROOT / "CHANGELOG.md").read_text())
    assert [name for name in sorted(SINCE_1_0 - set(recalign.__all__)) if f"`{name}`" not in said] == []


@pytest.mark.parametrize("name", recalign.__all__)
def test_public_names_can_be_imported_and_say_what_they_are(name: str):
    assert getattr(recalign, name).__doc__


def test_the_section_that_names_what_is_gone_is_found():
    log = "# Changelog\n\n## Unreleased\n\n### Removed\n\n- `old`\n\n## 0.9\n\n### Removed\n\n- `older`\n"
    assert "`old`" in removed(log)
    assert "`older`" not in removed(log)


def test_every_place_of_the_repositorys_address_is_known():
    """Whoever publishes replaces it in these files, and then this test by one of the address."""
    found = subprocess.run(["git", "grep", "-l", "example.invalid/recalign"], cwd=ROOT, capture_output=True, text=True)
    places = {"CITATION.cff", "README.md", "pyproject.toml", "tests/test_package.py"}
    assert set(found.stdout.split()) == places
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert {"Homepage", "Documentation", "Issues", "Changelog"} <= set(urls)
    assert all(url.startswith(PLACEHOLDER) for url in urls.values())


def test_the_newest_section_of_the_changelog_is_of_this_version_and_the_citations_date():
    (version, date), *_ = re.findall(r"^## \[(.+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (version, date) == (recalign.__version__, str(cited["date-released"]))


def test_the_citation_and_the_foot_of_each_page_are_of_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == recalign.__version__
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text())["copyright"] == f"recalign {recalign.__version__}"
