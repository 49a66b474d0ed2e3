"""Semantic ids in a chain: made first, where its recommender writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from recalign.artifacts import get_or_make
from recalign.errors import InputError
from recalign.run.chain.checks import refuse_own
from recalign.run.chain.plan import Plan
from recalign.run.chain.run import step_name
from recalign.run.chain.steps import Results, Step
from recalign.run.stage import RunFolder, Stage
from recalign.run.stage.console import echo
from recalign.run.stage.folder import RunConfig
from recalign.run.stage.tokens import ParsedTokens, parse_tokens
from recalign.run.stage.upstream import TOKENS
from recalign.run.words import to_argv


def token_steps(plan: Plan, parsed: Mapping[str, Stage]) -> dict[int, list[Step]]:
    """The steps that make the ids of each seed; empty where the chain needs none.

    Raises:
        InputError: the ids' settings cannot be used, or there are some and the chain makes no ids.
    """
    if any(one.stage == TOKENS and not one.named for one in parsed["recommender"].upstream):
        tokens_of(plan, plan.chain.seeds[0])
        return {seed: [Step(step_name(TOKENS, seed), partial(_tokenize, plan, seed))] for seed in plan.chain.seeds}
    if plan.given(TOKENS).keys() - plan.given(None).keys():
        remedy = "leave them out, or set recommender: recommender-onerec"
        raise InputError("this chain makes no semantic ids", where=f"stages.{TOKENS}", remedy=remedy)
    return {}


def tokens_of(plan: Plan, seed: int) -> ParsedTokens:
    """The command that makes the semantic ids of a seed."""
    given = {key: value for key, value in plan.settings(TOKENS).items() if not key.startswith("trainer.")}
    folder = RunFolder.of(RunConfig(TOKENS, plan.chain.root, plan.name), plan.name, seed)
    own = {"seed": seed, "out": str(folder.path)} | plan.world_root(seed)
    refuse_own(TOKENS, given.keys() & own.keys())
    return parse_tokens(to_argv((plan.yaml(TOKENS), plan.log), given | own))


def _tokenize(plan: Plan, seed: int, _: Results) -> Path:
    return get_or_make(replace(tokens_of(plan, seed), verbose=plan.chain.verbose), echo)
