"""What is searched for each stage and method, and the settings that are tried."""

from __future__ import annotations

import warnings
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from recalign.errors import InputError
from recalign.run.chain.plan import Settings
from recalign.run.stage.settings import load

DEFAULT = "default"
"""Names the space of every method that has none of its own."""
OTHER = "recalign tune reads another file with --space FILE"

Space = dict[str, Any]
"""Ranges (`optuna.distributions.FloatDistribution`), or lists of values, by key."""


class Spaces:
    """The spaces of all methods.

    Args:
        file: `conf/search.yaml`, or a sweep of W&B (`conf/sweep`), whose parameters are every method's.

    Attributes:
        metric: name and goal (``max`` or ``min``) of what a sweep optimises; None: the file does not say.
    """

    def __init__(self, file: Path) -> None:
        self.file, given = file, load(file)
        self.metric: tuple[str, str] | None = None
        if isinstance(given.get("parameters"), dict):
            if metric := given.get("metric"):
                self.metric = metric["name"], metric.get("goal", "minimize")[:3]
            given = {DEFAULT: given["parameters"]}
        self._spaces: dict[str, Space | str] = {}
        for method, space in given.items():
            try:
                own = space if isinstance(space, str) else {key: _axis(axis) for key, axis in space.items()}
            except (TypeError, ValueError, AttributeError, LookupError) as error:
                remedy = "give each key {low: 0.1, high: 1.0, log: true} or a list of values"
                raise InputError(f"{space} is no space to search", where=f"{file}, {method}", remedy=remedy) from error
            self._spaces[method] = own

    def __contains__(self, method: str) -> bool:
        return method in self._spaces

    def leader(self, method: str) -> str | None:
        """The method whose chosen setting this one takes, if it has no search of its own."""
        space = self._spaces.get(method)
        return space if isinstance(space, str) else None

    def space(self, method: str) -> Space:
        """The ranges and values of a method, or of its leader."""
        space = self._spaces.get(self.leader(method) or method, self._spaces.get(DEFAULT))
        if not isinstance(space, dict):
            remedy = f"add it, or {DEFAULT!r}; {OTHER}"
            raise InputError(f"no space for {method!r}", where=str(self.file), remedy=remedy)
        return space

    def settings(
        self, method: str, config: Mapping[str, Any], fixed: Container[str], trials: int, seed: int
    ) -> list[Settings]:
        """The `proposals` for a method, the first as it is configured; ``[{}]`` if all keys of its space are fixed."""
        defaults: Settings = {}
        for key in self.space(method):
            node: Any = config
            for part in key.split("."):
                node = node.get("init_args", node) if isinstance(node, dict) else {}
                if part not in node:
                    what, remedy = f"{method} has no setting {key!r}", f"search one that it has; {OTHER}"
                    raise InputError(what, where=str(self.file), remedy=remedy)
                node = node[part]
            defaults[key] = node
        space = {key: axis for key, axis in self.space(method).items() if key not in fixed}
        return proposals(space, {key: defaults[key] for key in space}, trials, seed) if space else [{}]


def _axis(given: Any) -> Any:
    """A range or a list of values, of `conf/search.yaml` or as W&B writes it."""
    if isinstance(given, list) and given:
        return given
    if "value" in given or "values" in given:
        return given.get("values") or [given["value"]]
    if "min" in given:
        low, high, kind = given["min"], given["max"], given.get("distribution")
        if kind in (None, "int_uniform") and isinstance(low, int) and isinstance(high, int):
            return list(range(low, high + 1))
        given = {"low": low, "high": high, "log": {None: False, "uniform": False, "log_uniform_values": True}[kind]}
    ends = {end: float(given[end]) for end in ("low", "high")}  # YAML takes 1e-5 for text
    if not ends["low"] < ends["high"] or given.keys() - {*ends, "log"}:
        raise ValueError(given)
    return require_optuna().distributions.FloatDistribution(**{**given, **ends})


def proposals(space: Space, defaults: Settings, trials: int, seed: int) -> list[Settings]:
    """The settings that are tried: the defaults first, then points spread evenly over the space.

    The points are Optuna's scrambled Sobol sequence: with a handful of trials they cover the space better than a
    sampler that first has to learn from as many. They depend on the space and the seed alone, so that an interrupted
    search goes on with the same, and further trials leave the earlier ones as they are.
    """
    optuna = require_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(sampler=optuna.samplers.QMCSampler(seed=seed, scramble=True))
    index = optuna.distributions.IntDistribution  # the sequence knows numbers only
    distributions = {key: index(0, len(axis) - 1) if isinstance(axis, list) else axis for key, axis in space.items()}
    study.tell(study.ask(distributions), 0.0)  # drawn at random: Optuna learns the space from a trial that is done
    tried = [defaults]
    for _ in range(trials - 1):
        point = study.ask(distributions).params
        tried.append(
            {
                key: axis[int(point[key])] if isinstance(axis, list) else float(f"{point[key]:.3g}")
                for key, axis in space.items()
            }
        )
    return tried


def require_optuna() -> Any:
    """The module `optuna`."""
    try:
        import optuna
        import scipy  # noqa: F401 (what Optuna's sampler draws with)
    except ImportError as error:
        raise InputError("a search needs Optuna", where="trials", remedy="pip install 'recalign[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
