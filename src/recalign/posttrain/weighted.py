"""A-SFT and related methods: likelihood training on logged events, weighted by their advantage.

Legend: T events, E all logged events, pi the policy, a the logged item, s its history, A advantages in standard
deviations of the log's rewards. In this unit a temperature means the same on every log; reranking uses it too.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from recalign.data.sequences import Batch
from recalign.distributed import all_gather_rows, own_rows
from recalign.errors import InputError, Positive
from recalign.posttrain.base import Metrics, PostTraining
from recalign.recommender.policy import Policy, State, total_nll

Transform = Literal["constant", "linear", "exponential", "rank", "sign"]
WARN_ESS = 0.05
"""Warn below this effective sample size, as a share of the events with an advantage: a few events dominate."""
AUTO_TEMPERATURES = tuple(float(f"{0.3 * 1.25**step:.3g}") for step in range(48))
AUTO_ESS = 0.1
"""``auto``: the smallest of these temperatures with an effective sample size of at least that share of the events."""


def transform_advantages(advantage_T: Tensor, transform: Transform, temperature: float) -> Tensor:
    """Unnormalised weights f(A), with beta the temperature; 0 where A is NaN.

    - constant: 1: behaviour cloning, on events that have a reward, as in all methods;
    - linear: max(A, 0): reward-weighted cloning if V is 0;
    - exponential: exp(A / beta): A-SFT; the solution of the KL-regularised problem (AWR, arXiv 1910.00177). Scaled so
      that the largest is 1, which avoids overflow and cancels in the loss;
    - rank: exp(2 (u - 1) / beta), u the quantile of A in its batch (ties count half): robust to outliers;
    - sign: 1[A > 0]: filtered cloning.
    """
    known_T = ~advantage_T.isnan()
    match transform:
        case "constant":
            w_T = torch.ones_like(advantage_T)
        case "linear":
            w_T = advantage_T.clamp(min=0)
        case "exponential":
            w_T = ((advantage_T - advantage_T.nan_to_num(nan=-torch.inf).max()) / temperature).exp()
        case "rank":
            last_T = advantage_T.nan_to_num(nan=torch.inf)  # events without a reward sort last
            sorted_T = last_T.sort().values
            up_to_T = torch.searchsorted(sorted_T, last_T, right=True)
            u_T = (torch.searchsorted(sorted_T, last_T) + up_to_T) / (2 * known_T.sum())
            w_T = ((2 * u_T - 2) / temperature).exp()
        case "sign":
            w_T = (advantage_T > 0).to(advantage_T.dtype)
    return w_T.where(known_T, 0.0)


def clip_weights(w_T: Tensor, clip: float | None) -> tuple[Tensor, Metrics]:
    """Clip |w| to ``clip`` times the mean |w| of non-zero weights, keeping the sign; None: no clipping.

    Returns the weights, and ``clipped``, the share that were clipped.
    """
    if clip is None:
        return w_T, {"clipped": w_T.new_zeros(())}
    size_T = w_T.abs()
    limit = clip * size_T.sum() / (size_T > 0).sum().clamp(min=1)
    return w_T.clamp(-limit, limit), {"clipped": (size_T > limit).float().mean()}


def weighted_likelihood(policy: Policy, state: State, item_T: Tensor, weight_T: Tensor) -> tuple[Tensor, Metrics]:
    """L = sum_t w_t * -log pi(a_t | s_t) / sum_t w_t over the events of all processes; 0 if all w_t = 0.

    This covers behaviour cloning (w = 1), filtered cloning (w in {0, 1}), reward-weighted cloning (w = r),
    exponential reward weighting (w = exp(r / beta); arXiv 2603.10279) and A-SFT (w = f(r - V); Netflix TechBlog,
    October 2025, whose own formula is not public; the closest published one is AWR, arXiv 1910.00177).

    Dividing by the batch's sum of weights makes the step size independent of their scale. ``state`` and ``item_T`` are
    this process's; ``weight_T`` (w_t >= 0) has the events of all processes, and no gradient flows through it. Returns
    the loss, and the metrics of `weight_metrics`.
    """
    weight_T = weight_T.detach()
    normalised_T = weight_T / above_zero(weight_T.sum())
    local_T = normalised_T[own_rows(len(item_T), item_T.device)]
    return total_nll(policy, state, item_T, local_T), weight_metrics(weight_T)


def weight_metrics(weight_T: Tensor) -> Metrics:
    """Metrics about the weights, to log.

    ``ess``, the effective sample size as a share of the events, (sum |w|)^2 / (T sum w^2); ``max_weight``, the largest
    over the mean; and ``negative``, the negative weights' share of sum |w|.
    """
    size_T, count = weight_T.abs(), len(weight_T)
    total = size_T.sum()
    return {
        "ess": total.square() / above_zero(count * weight_T.square().sum()),
        "max_weight": size_T.max() * count / above_zero(total),
        "negative": (-weight_T).clamp(min=0).sum() / above_zero(total),
    }


def effective_share(weight_T: Tensor) -> float:
    """``ess`` of `weight_metrics`, in float64."""
    return float(weight_metrics(weight_T.double())["ess"])


def above_zero(x: Tensor) -> Tensor:
    return x.clamp(min=torch.finfo(x.dtype).tiny)


class WeightedLikelihood(PostTraining):
    """L = sum_e w_e * -log pi(a_e | s_e) / sum_e w_e; a subclass has the weights.

    Logs ``advantage/{ess,max_weight,negative}`` (`weight_metrics`), ``clipped`` (`clip_weights`) and ``share`` of the
    events with an advantage; before training the histograms ``values`` and ``weights`` over all events.

    Args:
        clip: largest |weight|, in units of the mean one; null: no limit.
        lr: AdamW's learning rate.
        **training: arguments of `PostTraining`.

    Raises (before training):
        InputError: every event's weight is 0.
    """

    LOG_PREFIX = "advantage"
    takes_row_sharding = True

    def __init__(self, clip: Positive[float] | None = 10.0, lr: float = 3e-5, **training: Any) -> None:
        super().__init__(lr=lr, **training)
        self.clip = clip

    @abstractmethod
    def weights(self, advantage_T: Tensor) -> tuple[Tensor, Metrics]:
        """The weight of each event, 0 if it has no reward, and metrics to log."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.prepare_weights(torch.from_numpy(self.data.advantages))  # type: ignore[attr-defined]

    def prepare_weights(self, advantage_E: Tensor) -> Tensor:
        """Return the weights of the events with an advantage; check and log them. Shape: (E,)."""
        known_T = advantage_E[~advantage_E.isnan()]
        weight_T, _ = self.weights(known_T)
        if not weight_T.any():
            text = f"every weight is 0 (the largest advantage is {known_T.max():.3g})"
            remedy = "use a data.reward above 0 for good events, another data.baseline or another model.transform"
            raise InputError(text, where="model", remedy=remedy)
        self.log_histogram("advantage/values", known_T)
        self.log_histogram("advantage/weights", weight_T)
        return weight_T

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        advantage_T = all_gather_rows(self.advantages(batch))
        weight_T, clipped = self.weights(advantage_T)
        loss, metrics = self.likelihood(batch, weight_T)
        return loss, {**metrics, **clipped, "share": (~advantage_T.isnan()).float().mean()}

    def likelihood(self, batch: Batch, weight_T: Tensor) -> tuple[Tensor, Metrics]:
        """The loss and its metrics, from the weights of the events of all processes."""
        return weighted_likelihood(self.policy, self.policy.encode(batch), batch.target_T, weight_T)


class WeightedSFT(WeightedLikelihood):
    """`WeightedLikelihood` with w_e = f(A_e): advantage-weighted supervised fine-tuning.

    Also logs ``advantage/temperature``. Warns if the effective sample size is below `WARN_ESS` and a higher temperature
    would raise it.

    Args:
        transform: f: constant, linear, exponential, rank or sign (`transform_advantages`).
        temperature: beta of f, in standard deviations of the reward. Large: behaviour cloning; small: greedy. ``auto``:
            the smallest of `AUTO_TEMPERATURES` with an effective sample size of `AUTO_ESS`; a resumed run keeps it.
        **training: arguments of `WeightedLikelihood`.
    """

    def __init__(
        self,
        transform: Transform = "exponential",
        temperature: Positive[float] | Literal["auto"] = "auto",
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.transform = transform
        self.has_temperature = transform in ("exponential", "rank")
        self.auto = temperature == "auto" and self.has_temperature
        self.temperature: float = AUTO_TEMPERATURES[0] if temperature == "auto" else temperature

    def weights(self, advantage_T: Tensor) -> tuple[Tensor, Metrics]:
        w_T, clipped = clip_weights(transform_advantages(advantage_T, self.transform, self.temperature), self.clip)
        tempered = {"temperature": w_T.new_full((), self.temperature)} if self.has_temperature else {}
        return w_T, clipped | tempered

    def facts(self) -> dict[str, Any]:
        return super().facts() | ({"temperature": self.temperature} if self.has_temperature else {})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.auto:
            self.temperature = checkpoint["facts"].get("temperature", self.temperature)

    def prepare_weights(self, advantage_E: Tensor) -> Tensor:
        """Also choose the temperature if it is ``auto``, and print it, or warn if few events have the weight."""
        if self.auto:
            self.choose_temperature(advantage_E[~advantage_E.isnan()])
        weight_T = super().prepare_weights(advantage_E)
        ess = effective_share(weight_T)
        text = f"temperature {self.temperature:g}: the effective sample size is {ess:.1%} of {len(weight_T):,} events"
        if ess < WARN_ESS and self.has_temperature:
            rank_zero_warn(f"few events have nearly all of the weight; raise model.temperature ({text})")
        elif self.auto:
            rank_zero_info(text)
        return weight_T

    def choose_temperature(self, advantage_T: Tensor) -> None:
        """Set the smallest of `AUTO_TEMPERATURES` with an effective sample size of `AUTO_ESS`; else the largest."""
        for temperature in AUTO_TEMPERATURES:
            self.temperature = temperature
            if effective_share(self.weights(advantage_T)[0]) >= AUTO_ESS:
                return
