"""The settings of a chain's YAML."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from recalign.errors import InputError, require_positive, require_seed
from recalign.evaluation.methods import BASE_STAGES
from recalign.evaluation.roles import reranked_method
from recalign.evaluation.rows import is_post_trained, row_of
from recalign.posttrain.base import KEEP
from recalign.recommender.interpolation import require_share
from recalign.workers import Engine

if TYPE_CHECKING:
    from recalign.data.simulation import World


@dataclass
class Evaluation:
    """How the methods of a chain are evaluated.

    Attributes:
        users: how many of the users A with test events, in a sample that is the same for every method and seed of a
            log; null, or more than there are: all.
    """

    users: int | None = None


PLACEBOS = {
    "asft_permuted": "asft",
    "asft_random": "asft",
    "rerank_permuted": "rerank",
    "rerank_item_mean_permuted": "rerank_item_mean",
    "reward_weighted_permuted": "reward_weighted",
}
"""The placebos in ``conf/methods``, each with the method whose settings it copies except for one thing."""


@dataclass
class Chain:
    """An experiment: which log, which stages, which methods.

    Attributes:
        log: the log's YAML: its name in conf/logs, or a path, from the current folder or from the chain's YAML.
        methods: methods and baselines to compare: the rows of the table.
        name: name of the run folder; null: the name of the chain's YAML.
        recommender: YAML of the recommender: ``recommender`` (HSTU, over items) or ``recommender-onerec`` (OneRec, over
            semantic ids, which are made first, by conf/stages/tokens.yaml).
        seeds: random seeds; each repeats cloning, reward model, judges and post-training.
        highlight: the method that the report focuses on; null: none.
        placebos: methods that must gain nothing, each mapped to the method that it copies; by default `PLACEBOS`.
        baselines: gains are measured against the best of these rows.
        rerank: weight of the standardised reward in reranking (1 / lambda), before the NDCG budget scales it; for
            `popularity_tilt`, of log counts.
        keep: the NDCG budget: share of the start's ``all/ndcg@10`` on validation that every method keeps. Post-trained
            weights (``model.keep``) are interpolated, and weights of rerankers scaled, from the start up to it, with
            alpha from 1/16 to 4; null: both stay as they are, whatever share is left.
        trials: number of settings to try for each method: those of its YAML, then others from conf/search.yaml. The
            best on validation, with the first seed, is run with every seed. 0 or 1: no search.
        evaluation: how methods are evaluated.
        world: settings of a simulated world; each seed then has a world of its own, drawn with that seed.
        root: folder of all runs.
        workers: number of parallel tasks; 1: one after the other in this process; null: one per core and 2 GiB of
            memory, 1 with a GPU or several processes per stage, or as many as fit a Ray cluster.
        engine: where tasks run: processes of this machine, or a Ray cluster (that of RAY_ADDRESS).
        threads: torch threads per task; null: 1, so that results do not depend on the number of cores, or torch's
            default if tasks run one at a time with a GPU or several processes per stage.
        num_cpus: CPUs that Ray reserves for a task; null: one per thread.
        num_gpus: GPUs that Ray reserves for a task.
        quick: run only the highlighted method, rows that need no training, and their placebos.
        verbose: whether each stage prints its command, duration and checkpoint.
        stages: settings of single stages or methods, over those of their YAML (``asft: {model: {temperature: 0.5}}``).
        trainer: settings of every stage's trainer.
        data: settings of every stage's data.
    """

    log: str
    methods: list[str]
    name: str | None = None
    recommender: str = "recommender"
    seeds: list[int] = field(default_factory=lambda: [0])
    highlight: str | None = None
    placebos: dict[str, str] = field(default_factory=PLACEBOS.copy)
    baselines: list[str] = field(default_factory=lambda: ["start", "bc"])
    rerank: float = 1.0
    keep: float | None = KEEP
    trials: int = 0
    evaluation: Evaluation = field(default_factory=Evaluation)
    world: World | None = None
    root: str = "runs"
    workers: int | None = None
    engine: Engine = "local"
    threads: int | None = None
    num_cpus: float | None = None
    num_gpus: float = 0.0
    quick: bool = False
    verbose: bool = False
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> list[str]:
        """The methods that are trained."""
        return [method for method in self.methods if row_of(method).trained]

    @property
    def post_trained(self) -> list[str]:
        """The trained methods that are policies: they have settings to search and an interpolation path."""
        return [method for method in self.methods if is_post_trained(method)]

    def quickened(self) -> Chain:
        """A copy with the methods of a `quick` chain."""
        followed = {self.highlight, reranked_method(self.highlight or "")}
        own = {method for method in self.methods if not row_of(method).trained or method in followed}
        own |= {placebo for placebo, method in self.placebos.items() if method in own}
        kept = [method for method in self.methods if method in own and (reranked_method(method) or method) in own]
        return replace(self, methods=kept)

    def check(self) -> None:
        """Refuse settings with which no chain works."""
        require_share(self.keep, "keep")
        require_positive("", vars(self), "rerank", "trials", "num_gpus", or_zero=True)
        require_positive("", vars(self), "workers", "threads", "num_cpus")
        require_positive("evaluation", vars(self.evaluation), "users")
        for key, values in (("methods", self.methods), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise InputError(f"{values} is empty or names one twice", where=key, remedy="list each once")
        for seed in self.seeds:
            require_seed(seed, "seeds")
        for method in self.methods:
            if (own := reranked_method(method)) is not None and own not in self.post_trained:
                text = f"{method} reranks the policy of {own!r}, which this chain does not train"
                remedy = f"add {own} to methods" if own and is_post_trained(own) else "rerank a method that is trained"
                raise InputError(text, where="methods", remedy=remedy)
        if taken := [method for method in self.methods if method in BASE_STAGES]:
            raise InputError(f"{taken[0]} is not a method", where="methods", remedy="omit it: every chain trains it")
