"""What a step is, what it can build on, and what is planned for it, as data: no Keras, no store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from kdflow.config.base import Config
from kdflow.config.precision import AskedPrecision
from kdflow.config.reading import Reading
from kdflow.config.views import ONE_VIEW, Views

if TYPE_CHECKING:
    from kdflow.dataset import Dataset
    from kdflow.tracking.find import FoundRun


@dataclass(frozen=True)
class Need:
    """A result that a step builds on.

    Attributes:
        parameter: the parameter of the asking step that names it, for messages; empty where the
            user did not name it.
        optional: whether the step does without it if it is missing or does not fit.
    """

    parameter: str = field(default="", compare=False, kw_only=True)
    optional: bool = field(default=False, compare=False, kw_only=True)


@dataclass(frozen=True)
class ModelOf(Need):
    """A model that classifies.

    Attributes:
        source: auto, a network's name, the id of a run that logged a model, a `.keras` or `.h5`
            file, or what MLflow calls `runs:/...` and `models:/...`.
        holdout: what it has to be trained with; at 0 there is no validation to keep apart.
        reading: how a model that kdflow did not train is read; one that is not to teach may be no
            better than chance.
        precision: what one that has yet to be trained is trained in.
    """

    source: str
    holdout: float
    reading: Reading = field(default=Reading(allow_weak=True), kw_only=True)
    precision: AskedPrecision = field(default="auto", kw_only=True)


@dataclass(frozen=True)
class LogitsOf(Need):
    """A teacher's verified logits.

    Attributes:
        source: what `ModelOf` takes, the id of an export's run, or a folder of logits.
        holdout: see `ModelOf`.
        views: those that are needed; an export may hold more.
        averaged: whether those of a view are the mean over it and its mirror image.
        reading: how a model or a folder is read that is not kdflow's.
        precision: what the logits, and a model that has yet to be trained, are computed in.
    """

    source: str
    holdout: float
    views: Views = ONE_VIEW
    averaged: bool = False
    reading: Reading = field(default=Reading(), kw_only=True)
    precision: AskedPrecision = field(default="auto", kw_only=True)


@dataclass(frozen=True)
class LayersOf(Need):
    """The lower layers of a student that a hint run has trained.

    Attributes:
        source: auto (the hint run at its default settings), or a hint run's id.
        student: the network.
        teacher: whose hints, as a step that distils names its teacher.
        holdout: what it has to be trained with.
        reading: how a teacher that kdflow did not train is read.
        precision: what a hint run that has yet to be made computes in.
    """

    source: str
    student: str
    teacher: str
    holdout: float
    reading: Reading = field(default=Reading(), kw_only=True)
    precision: AskedPrecision = field(default="auto", kw_only=True)


@dataclass(frozen=True)
class Training(Need):
    """The figures of a training that is compared with others.

    Attributes:
        step: which step makes it.
        values: its parameters, over that step's defaults, as pairs. One that is itself a `Training`
            stands for the id of that run, which may have yet to be made.
    """

    step: str
    values: tuple[tuple[str, Any], ...]


def training(step: str, *, parameter: str = "", **values: Any) -> Training:
    """The figures of the run of `step` with these parameters."""
    return Training(step, tuple(sorted(values.items())), parameter=parameter)


def _no_needs(config: Any, dataset: Dataset) -> dict[str, Need]:
    return {}


def _no_check(config: Any, dataset: Dataset, inputs: Mapping[str, Found | Planned]) -> None:
    pass


def _as_asked(config: Any, inputs: Mapping[str, Found | Planned], dataset: Dataset) -> Any:
    return config


@dataclass(frozen=True)
class Step:
    """An entry point.

    Attributes:
        config: its parameters.
        title: from the config to the run's name.
        run: from (run, config, dataset, **results of its needs) to the run's last metrics.
        needs: from (config, dataset) to what it builds on, by the role's name.
        check: refuses, before a run is opened, what cannot work; gets the plan of each need.
        resolved: the config with each `auto` replaced that depends on what is planned.
        verb: what the plan says is to be done.
        is_parent: whether every run that is made for it is a child of its run.
        resumes: whether its run is resumed where it was interrupted.
    """

    name: str
    config: type[Config]
    title: Callable[[Any], str]
    run: Callable[..., dict[str, float]]
    needs: Callable[[Any, Dataset], dict[str, Need]] = _no_needs
    check: Callable[[Any, Dataset, Mapping[str, Found | Planned]], None] = _no_check
    resolved: Callable[[Any, Mapping[str, Found | Planned], Dataset], Any] = _as_asked
    verb: str = "train"
    is_parent: bool = False
    resumes: bool = True


@dataclass(frozen=True)
class Found:
    """A need whose result exists and is verified."""

    result: Any


@dataclass
class Planned:
    """A step that has to run.

    Attributes:
        inputs: what it builds on, by role.
        later: parameters whose value is the id of a run that does not exist yet, each with the need
            that makes the run. The step's own needs are planned once these runs exist.
        result: what it made, once it has run.
    """

    step: Step
    config: Config
    inputs: dict[str, Need] = field(default_factory=dict)
    later: dict[str, Need] = field(default_factory=dict)
    result: Any = None

    @property
    def title(self) -> str:
        """What the run will be called."""
        return self.step.title(self.config)


class Lookup(Protocol):
    """How the runs that may hold a result are looked up; `reuse.Resolver` is one."""

    dataset: Dataset

    def plan(self, need: Need) -> Found | Planned:
        """What exists for a need, or how it will be made."""

    def same_runs(self, name: str, values: Mapping[str, Any]) -> list[FoundRun]:
        """The runs that are what this step would make with these parameters."""

    def same_code_runs(self, name: str, values: Mapping[str, Any]) -> list[FoundRun]:
        """Those of `same_runs` that `reuse` allows in a comparison."""
