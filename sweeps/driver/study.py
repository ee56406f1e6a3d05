"""What a study's file states, and how it is found."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from kdflow.errors import KdflowError

FOLDER = Path(__file__).parent.parent


@dataclass(frozen=True)
class Study:
    """A search over parameters of `distill` for the largest validation accuracy.

    Attributes:
        space: what is searched, by the parameter's name.
        sampler: makes a new one from a seed.
        trials: the budget, unless the user says otherwise.
        cost: what that is expected to take, in words.
        base: what differs from `distill`'s defaults in every trial.
        pruner: gives up trials that lag behind; the default one gives up none.
    """

    space: Mapping[str, BaseDistribution]
    sampler: Callable[[int], optuna.samplers.BaseSampler]
    trials: int
    cost: str
    base: Mapping[str, Any] = field(default_factory=dict)
    pruner: optuna.pruners.BasePruner = field(default_factory=optuna.pruners.NopPruner)

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """The values of a trial, by the parameter's name."""
        return {name: _suggest(trial, name, space) for name, space in self.space.items()}

    def described_space(self) -> dict[str, str]:
        """The space as text, by the parameter's name: equal for equal spaces."""
        return {name: distribution_to_json(space) for name, space in self.space.items()}


def grid(points: Mapping[str, Sequence[Any]]) -> Callable[[int], optuna.samplers.BaseSampler]:
    """A sampler for all combinations of some values, each once. Every worker has to enumerate them
    in the same order, so the seed that it takes has no effect."""
    return lambda seed: optuna.samplers.GridSampler(points, seed=0)


def names() -> list[str]:
    """The studies that there are: the files in `sweeps/`."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("__"))


def load(name: str) -> Study:
    """The study that `sweeps/<name>.py` states.

    Raises:
        KdflowError: there is no such file, or it states none.
    """
    if name not in names():
        raise KdflowError(f"study: expected one of {', '.join(names())}, got {name!r}")
    study = getattr(importlib.import_module(f"sweeps.{name}"), "STUDY", None)
    if not isinstance(study, Study):
        raise KdflowError(f"study: expected a Study called STUDY in sweeps/{name}.py, got {study}")
    return study


def _suggest(trial: optuna.Trial, name: str, space: BaseDistribution) -> Any:
    match space:
        case FloatDistribution():
            return trial.suggest_float(name, space.low, space.high, step=space.step, log=space.log)
        case IntDistribution():
            return trial.suggest_int(name, space.low, space.high, step=space.step, log=space.log)
        case CategoricalDistribution():
            return trial.suggest_categorical(name, space.choices)
    raise TypeError(f"{name}: expected a distribution of Optuna, got {space}")
