"""Log a post-trained policy's value on validation, for a search or a sweep to maximise."""

from __future__ import annotations

from dataclasses import replace

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from recalign.errors import InputError
from recalign.evaluation.methods import require_independent
from recalign.evaluation.networks import data_of_judges
from recalign.evaluation.selection import ERROR, RETAINED, measured
from recalign.evaluation.value import Scorers, evaluate_policies
from recalign.posttrain.base import PostTraining
from recalign.recommender.checkpoint import Loaded, check_catalogue, load_net
from recalign.recommender.interpolation import Retention, budget_batches, ndcg_by_user


class SelectionValue(Callback):
    """Log a post-trained policy's value under the judges for selection, when training ends.

    Logs ``value/select_judge@10``, ``all/ndcg@10``, ``high/ndcg@10`` and ``policy/kl`` on the validation events of
    users A. Logs ``policy/ndcg_retained`` (the share of the start's ``all/ndcg@10``) and its standard error
    ``policy/ndcg_retained_se`` on those of all users, on which the NDCG budget is searched. All are of the weights at
    the end of training. With the chain's ``model.keep`` these are the weights that are saved, and the value alone
    ranks trials.

    Args:
        judge: checkpoint of the judges for selection, trained on users B1.

    Raises (before training):
        InputError: there is no such checkpoint, it shares users with the policy, or the model is no post-training.
    """

    READS = ("judge",)

    def __init__(self, judge: str) -> None:
        super().__init__()
        self.path = judge
        self.judge: Loaded | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not isinstance(pl_module, PostTraining):
            text = f"{type(pl_module).__name__} is not a post-training module, so it has no policy to evaluate"
            raise InputError(text, where="trainer.callbacks", remedy="leave SelectionValue out")
        self.judge = load_net(self.path, "reward")
        data = pl_module.data
        check_catalogue(self.judge.catalogue, data.sequences.catalogue, self.path)
        require_independent([self.judge], replace(pl_module.start_metadata, users=data.cohort), data.sequences)

    def on_fit_end(self, trainer: Trainer, pl_module: PostTraining) -> None:  # type: ignore[override]
        assert self.judge is not None
        data, device = pl_module.data, pl_module.data.device  # from which Lightning has moved the module to the CPU
        [own] = data_of_judges([self.judge], data)
        own_data = {} if own is data else {"select_judge@10": own}
        scorers = Scorers(pl_module.reference, {"select_judge@10": self.judge.net}, own_data=own_data)
        frames = evaluate_policies({"trained": pl_module.policy}, scorers, data, "validation", device)
        figures = measured(frames["trained"])
        policies = pl_module.policy, pl_module.reference
        kept = Retention.measure(*(ndcg_by_user(policy, budget_batches(data), device) for policy in policies))
        figures |= {RETAINED: kept.share, ERROR: kept.error}
        pl_module.to(pl_module.device)
        for logger in trainer.loggers:
            logger.log_metrics(figures, trainer.global_step)
