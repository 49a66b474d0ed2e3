"""The main job: run stages in order, each a plain `recalign fit`, then compare and report."""

from recalign.chain.chain_command import chain
from recalign.chain.experiment import Chain
from recalign.chain.plan import Plan
from recalign.evaluation.methods import BASE_STAGES

__all__ = ["BASE_STAGES", "Chain", "Plan", "chain"]
