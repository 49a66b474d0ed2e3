"""What is searched for each method (`conf/search.yaml`), and the settings that are tried."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recalign.errors import InputError

DEFAULT = "default"
"""Names the space of every method that has none of its own."""

Settings = dict[str, Any]
"""Values by key, as they are typed: ``{"model.temperature": 0.5}``."""


@dataclass(frozen=True)
class Range:
    """The numbers between two ends.

    Attributes:
        low, high: the ends.
        log: whether their logarithm is spread evenly.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and not self.low > 0):
            raise ValueError


Space = dict[str, Range | list[Any]]
"""Ranges, or lists of values, by key."""


class Spaces:
    """The spaces of all methods.

    Args:
        file: `conf/search.yaml`.

    Raises:
        InputError: it cannot be read, or what stands in it is no space.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        if not file.is_file():
            raise InputError("there is nothing to search", where=str(file), remedy="write that file, or set trials: 0")
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
        self._spaces: dict[str, Space | str] = {
            method: space if isinstance(space, str) else self._space(method, space) for method, space in given.items()
        }

    def leader(self, method: str) -> str | None:
        """The method whose chosen setting this one takes, if it has no search of its own."""
        space = self._spaces.get(method)
        return space if isinstance(space, str) else None

    def space(self, method: str) -> Space:
        """The ranges and values of a method.

        Raises:
            InputError: the file holds neither the method's nor a default.
        """
        space = self._spaces.get(method, self._spaces.get(DEFAULT))
        if not isinstance(space, dict):
            raise InputError(f"no space for {method!r}", where=str(self.file), remedy=f"add it, or {DEFAULT!r}")
        return space

    def _space(self, method: str, given: Any) -> Space:
        try:
            return {key: _axis(axis) for key, axis in given.items()}
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{given} is no space to search",
                where=f"{self.file}, {method}",
                remedy="give each key {low: 0.1, high: 1.0, log: true} or a list of values",
            ) from error


def _axis(given: Any) -> Range | list[Any]:
    if isinstance(given, list) and given:
        return given
    ends = {end: float(given[end]) for end in ("low", "high") if end in given}  # YAML takes 1e-5 for text
    return Range(**{**given, **ends})


def proposals(space: Space, defaults: Settings, trials: int, seed: int) -> list[Settings]:
    """The settings that are tried: the defaults first, then points spread evenly over the space.

    The points are Optuna's scrambled Sobol sequence: with a handful of trials they cover the space better than a
    sampler that first has to learn from as many. They depend on the space and the seed alone, so that an interrupted
    search goes on with the same, and further trials leave the earlier ones as they are.

    Raises:
        InputError: Optuna is not installed.
    """
    study = _study(seed)
    distributions = _distributions(space)
    study.ask(distributions)  # Optuna draws the first at random: it learns the space from it
    asked = [study.ask(distributions).params for _ in range(trials - 1)]
    return [defaults, *({key: _value(space[key], point[key]) for key in space} for point in asked)]


def _study(seed: int) -> Any:
    try:
        import optuna
        import scipy  # noqa: F401 (what Optuna's sampler draws with)
    except ImportError as error:
        raise InputError(
            "a search needs Optuna and SciPy", where="trials", remedy="pip install 'recalign[search]', or set trials: 0"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.create_study(sampler=optuna.samplers.QMCSampler(seed=seed, scramble=True))


def _distributions(space: Space) -> Mapping[str, Any]:
    from optuna.distributions import FloatDistribution, IntDistribution

    return {
        key: FloatDistribution(axis.low, axis.high, log=axis.log)
        if isinstance(axis, Range)
        else IntDistribution(0, len(axis) - 1)  # places in the list, for the sequence knows no names
        for key, axis in space.items()
    }


def _value(axis: Range | list[Any], point: float) -> Any:
    return float(f"{point:.3g}") if isinstance(axis, Range) else axis[int(point)]
