"""When is a run reused? A step's needs become a plan: for each, a verified result that exists, or a
step to run, with needs of its own. The plan is printed, and carried out inside the step's run.

* A teacher, logits or hints are reused from any run whose key fits, whatever code made it, once
  their content is verified; the plan remarks on other code.
* A training that is compared with others is reused only if the same code made it (`reuse`).
* A result is *unfit* if it is proven to be missing, damaged or of something else: the plan says so
  and makes another. It is *unreachable* if the store does not answer: the step stops.
* The step that the user asked for always runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError

from kdflow.config.base import Config, canonical, first_problem
from kdflow.dataset import Dataset
from kdflow.errors import KdflowError, Unfit, about
from kdflow.needs import LayersOf, LogitsOf, ModelOf, Need, Step, Training
from kdflow.results import layers, logits, models, trainings
from kdflow.results.records import StepResult
from kdflow.sources import code_of
from kdflow.tracking.find import CODE_TAG, FoundRun, find_runs, get_run
from kdflow.tracking.runs import Run, open_run

# What these parameters name is in the key by content: the data set's digest and the inputs'.
NAMED_BY_CONTENT = {"dataset", "teacher", "model", "init"}


class Finder(Protocol):
    """How one kind of need is named, found and verified; a module each in `kdflow.results`."""

    def named(self, need: Any, dataset: Dataset) -> Any:
        """The verified result that the user named by a path; None if it is not named so."""

    def candidates(self, need: Any, resolver: Resolver) -> list[FoundRun]:
        """The runs that may hold the result, best first."""

    def opened(self, need: Any, run: FoundRun, dataset: Dataset) -> Any:
        """The verified result that a run holds. Raises `Unfit` or `Unreachable`."""

    def made_by(self, need: Any, dataset: Dataset) -> tuple[str, dict[str, Any]]:
        """The step that makes the result where there is none, and its parameters."""


FINDERS: dict[type[Need], Finder] = {
    ModelOf: models,
    LogitsOf: logits,
    LayersOf: layers,
    Training: trainings,
}


@dataclass
class Planned:
    """A need, or the step that was asked for, once it is clear what is to be done.

    Attributes:
        result: what exists and is verified; None if it has to be made.
        step, config: what makes it.
        inputs: what that step builds on, by role.
        later: parameters that will be the ids of runs which have yet to be made.
    """

    step: Step | None = None
    config: Config | None = None
    need: Need | None = None
    result: Any = None
    inputs: dict[str, Planned] = field(default_factory=dict)
    later: dict[str, Planned] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What the run will be called."""
        assert self.step
        return self.step.title(self.config)


class Resolver:
    """Plans and makes what steps on one data set need. Each need is looked up once.

    Args:
        steps: by name.
        reuse: of trainings that are compared: same_code, any or never.
    """

    def __init__(
        self, steps: Mapping[str, Step], dataset: Dataset, reuse: str = "same_code"
    ) -> None:
        self.steps, self.dataset, self.reuse = steps, dataset, reuse
        self.parent: str | None = None
        self._planned: dict[Need, Planned] = {}
        self._deciding: list[Need] = []  # a need of a need is named by the outermost parameter

    def plan_step(self, name: str, config: Config) -> Planned:
        """The plan of a step that was asked for: it runs whatever exists.

        Raises:
            KdflowError: it cannot work.
        """
        planned = self.with_inputs(name, config)
        with about(getattr(config, "network_field", "")):
            self._check(planned)
        return planned

    def plan(self, need: Need) -> Planned:
        """What exists for a need, or how it will be made.

        Raises:
            KdflowError: what the user named does not exist or does not fit, or it cannot be made.
        """
        if need not in self._planned:
            is_of_the_user = not self._deciding
            self._deciding.append(need)
            try:
                with about(need.parameter if is_of_the_user else ""):
                    self._planned[need] = self._plan(need)
            finally:
                self._deciding.pop()
        return self._planned[need]

    def _plan(self, need: Need) -> Planned:
        finder = FINDERS[type(need)]
        result = finder.named(need, self.dataset)
        if result is not None:
            return Planned(need=need, result=result)
        for run in finder.candidates(need, self):
            try:
                return Planned(need=need, result=finder.opened(need, run, self.dataset))
            except Unfit as error:
                if run.run_id == getattr(need, "source", None):
                    raise  # the user named this very run
                print(f"{run.step}: {error}; it is not used")
        name, values = finder.made_by(need, self.dataset)
        later = {key: self.plan(value) for key, value in values.items() if isinstance(value, Need)}
        waiting = {key: each for key, each in later.items() if each.result is None}
        if waiting:  # what it needs in turn is planned when these runs exist
            step = self.steps[name]
            config = config_of(step, values | dict.fromkeys(later, "auto"))
            planned = Planned(step, config, need, later=later)
        else:
            ids = {key: each.result.source for key, each in later.items()}
            planned = self.with_inputs(name, config_of(self.steps[name], values | ids))
            planned.need = need
        self._check(planned)
        return planned

    def with_inputs(self, name: str, config: Config) -> Planned:
        """A step with what is planned for its needs."""
        step = self.steps[name]
        inputs = {role: self.plan(need) for role, need in step.needs(config, self.dataset).items()}
        return Planned(step, step.resolved(config, inputs, self.dataset), inputs=inputs)

    def _check(self, planned: Planned) -> None:
        assert planned.step
        planned.step.check(planned.config, self.dataset, planned.inputs)

    def same_runs(self, name: str, config: Config) -> list[FoundRun]:
        """The finished runs that are what this step would make, by any code, oldest first."""
        planned = self.with_inputs(name, config)
        if any(each.result is None for each in planned.inputs.values()):
            return []  # what it builds on is new
        keys = [key_of(planned, self.dataset), *_earlier_keys(name, config, planned, self.dataset)]
        return [run for key in keys for run in find_runs({"kdflow.key": key})]

    def same_code_runs(self, name: str, config: Config) -> list[FoundRun]:
        """Those of `same_runs` that `reuse` allows to be compared with others."""
        if self.reuse == "never":
            return []
        runs = self.same_runs(name, config)
        if self.reuse == "any":
            return runs
        code = code_of(config)
        made = [run for run in runs if run.tags.get(CODE_TAG) == code]
        if len(made) < len(runs):
            title = self.steps[name].title(config)
            print(
                f"{title}: {len(runs) - len(made)} earlier run(s) were made by other code and are"
                " not reused (reuse=any would)"
            )
        return made

    def obtain(self, planned: Planned) -> Any:
        """The result: what was found, or what is made now inside the run that is open."""
        if planned.result is None:
            for earlier in planned.later.values():
                self.obtain(earlier)
            if planned.later:
                assert planned.need
                del self._planned[planned.need]
                again = self.plan(planned.need)
                planned.result = self.obtain(again)
            else:
                planned.result = self._made(planned)
        return planned.result

    def _made(self, planned: Planned) -> Any:
        run_id, metrics = self.make(planned)
        if isinstance(planned.need, Training):
            return StepResult(run_id, metrics, planned.title)
        assert planned.need
        return FINDERS[type(planned.need)].opened(planned.need, get_run(run_id), self.dataset)

    def make(self, planned: Planned) -> tuple[str, dict[str, float]]:
        """Run a planned step, and before it what it needs; returns its run's id and metrics."""
        assert planned.step
        with self.opened(planned) as (run, results):
            metrics = planned.step.run(run, planned.config, self.dataset, **results)
        return run.run_id, metrics

    @contextlib.contextmanager
    def opened(
        self, planned: Planned, title: str | None = None
    ) -> Iterator[tuple[Run, dict[str, Any]]]:
        """The open run of a planned step, with its parameters, what it needs, and its key; and the
        results of its needs by role.

        Args:
            title: the run's name, if it is not the step's own.
        """
        step, config = planned.step, planned.config
        assert step
        assert config
        title, tags = title or planned.title, {CODE_TAG: code_of(config)}
        with open_run(title, step.name, self.dataset, tags, parent=self.parent) as run:
            print(f"{title}: run {run.run_id}")
            if step.is_parent and self.parent is None:
                self.parent = run.run_id
            values = config.used()
            run.log_params({name: canonical(value) for name, value in values.items()})
            run.log_json(values, "config.json")
            results = {role: self.obtain(each) for role, each in planned.inputs.items()}
            run.set_tags({f"kdflow.upstream.{role}": it.source for role, it in results.items()})
            if not step.is_parent:
                run.set_tags({"kdflow.key": key_of(planned, self.dataset)})
            yield run, results


def config_of(step: Step, values: Mapping[str, Any]) -> Config:
    """A step's validated parameters.

    Raises:
        KdflowError: one is refused.
    """
    try:
        return step.config(**values)
    except ValidationError as error:
        raise KdflowError(first_problem(error)) from error


def key_of(planned: Planned, dataset: Dataset) -> str:
    """What the result of a planned step depends on besides code, as a SHA-256: the step, its
    parameters that are not at a neutral value, the images, and the content that it builds on."""
    assert planned.step
    assert planned.config
    params = planned.config.keyed()
    content = {role: each.result.digest for role, each in planned.inputs.items()}
    return _sha256(planned.step.name, params, dataset, content)


def _earlier_keys(name: str, config: Config, planned: Planned, dataset: Dataset) -> Iterator[str]:
    """The key of runs before 2026-11-26: all parameters, as asked for, and the inputs' run ids."""
    params = {**config.model_dump(exclude={"plan_only", "reuse"})}
    neutral = set(config.used()) - set(config.keyed())
    ids = {role: each.result.source for role, each in planned.inputs.items()}
    yield _sha256(name, {key: params[key] for key in params if key not in neutral}, dataset, ids)


def _sha256(
    step: str, params: Mapping[str, Any], dataset: Dataset, inputs: Mapping[str, str]
) -> str:
    named = {name: value for name, value in params.items() if name not in NAMED_BY_CONTENT}
    described = [step, named, dataset.digest, dict(inputs)]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def lines(planned: Planned, about_how_long: Callable[[Planned], str]) -> Iterator[str]:
    """The plan in words, a line per result, in the order in which they are needed; each once."""
    seen: set[int] = set()

    def walk(each: Planned) -> Iterator[str]:
        if id(each) in seen:
            return
        seen.add(id(each))
        for below in (*each.later.values(), *each.inputs.values()):
            yield from walk(below)
        if each.result is not None:
            yield f"  found   {each.result.words}"
        elif each.step:
            yield f"  {each.step.verb:7} {each.title}{about_how_long(each)}"

    return walk(planned)
