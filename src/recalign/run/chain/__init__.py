"""The main job: run stages in order, each a plain `recalign fit`, then compare and report."""

from recalign.evaluation.methods import BASE_STAGES
from recalign.run.chain.command import chain
from recalign.run.chain.experiment import Chain
from recalign.run.chain.plan import Plan

__all__ = ["BASE_STAGES", "Chain", "Plan", "chain"]
