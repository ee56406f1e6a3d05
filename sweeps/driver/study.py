"""What the file of a study contains, and how it is found."""

import importlib
import itertools
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
        space: the distribution of each parameter that is searched, by name.
        trials: default number of trials.
        cost: what that takes, in words, for the console.
        points: a grid: these settings are tried in this order, and nothing is sampled.
        sampler: from a seed to a sampler of Optuna.
        base: parameters of every trial that differ from the defaults of `distill`.
        pruner: stops trials that lag behind; the default one stops none.
    """

    space: Mapping[str, BaseDistribution]
    trials: int
    cost: str
    points: Sequence[dict[str, Any]] = ()
    sampler: Callable[[int], optuna.samplers.BaseSampler] = optuna.samplers.RandomSampler
    base: Mapping[str, Any] = field(default_factory=dict)
    pruner: optuna.pruners.BasePruner = field(default_factory=optuna.pruners.NopPruner)

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw the values of a trial, by the parameter's name."""
        return {name: _suggest(trial, name, space) for name, space in self.space.items()}

    def described_search(self) -> dict[str, str]:
        """The sampler and the pruner as text: equal for equal settings."""
        return {"sampler": _settings(self.sampler(0)), "pruner": _settings(self.pruner)}

    def described_space(self) -> dict[str, str]:
        """The space as text, by the parameter's name: equal for equal spaces."""
        return {name: distribution_to_json(space) for name, space in self.space.items()}

    def stand_in(self, name: str, default: Any) -> Any:
        """A value for a parameter where no trial has drawn one: its default if that is searched,
        else the smallest one or the first choice."""
        tried = self.extremes(name)
        is_choice = isinstance(self.space[name], CategoricalDistribution)
        is_tried = default in tried if is_choice else tried[0] <= default <= tried[1]
        return default if is_tried else tried[0]

    def extremes(self, name: str) -> Sequence[Any]:
        """The smallest and the largest value of a parameter, or all choices."""
        match self.space[name]:
            case FloatDistribution(low=low, high=high) | IntDistribution(low=low, high=high):
                return low, high
            case CategoricalDistribution(choices=choices):
                return choices
        raise _unknown(name, self.space[name])


def grid(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations of some values, by the parameter's name.

    The driver puts them in a queue. With Optuna's GridSampler two workers can draw the same point,
    and a point whose process died counts as tried.
    """
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def names() -> list[str]:
    """The names of all studies: the files in `sweeps/`."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("__"))


def load(name: str) -> Study:
    """The study in `sweeps/<name>.py`.

    Raises:
        KdflowError: there is no such file, or it contains no study.
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
    raise _unknown(name, space)


def _settings(thing: object) -> str:
    """The class and the plain settings of a sampler or pruner, without its state."""
    plain = {
        name.lstrip("_"): value
        for name, value in sorted(vars(thing).items())
        if isinstance(value, (bool, int, float, str))
    }
    return f"{type(thing).__name__}({', '.join(f'{k}={v}' for k, v in plain.items())})"


def _unknown(name: str, space: object) -> TypeError:
    return TypeError(f"{name}: expected a distribution of Optuna, got {space}")
