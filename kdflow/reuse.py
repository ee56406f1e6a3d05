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
from collections.abc import Iterator, Mapping
from typing import Any

from kdflow.config.base import DATASET_OPTIONS, Config, canonical, validated
from kdflow.dataset import Dataset
from kdflow.errors import (
    ChangedError,
    KdflowError,
    NoRoomError,
    UnfitError,
    UnreachableError,
    about,
)
from kdflow.hardware import hardware
from kdflow.needs import (
    Found,
    Need,
    Planned,
    Step,
    Training,
)
from kdflow.results.finders import FINDERS
from kdflow.results.records import StepResult
from kdflow.resume import claim_checkpoint, run_of
from kdflow.sources import code_of, own_networks
from kdflow.tags import CODE_TAG, HARDWARE_TAG, KEY_TAG, upstream_tag
from kdflow.tracking.find import FoundRun, find_runs, get_run
from kdflow.tracking.run import Run

# What these parameters name is in the key by content: the data set's digest and the inputs'.
NAMED_BY_CONTENT = {
    *("dataset", *DATASET_OPTIONS),
    *("teacher", "model", "init", "pixels", "values"),
}
# In the keys of kdflow 0.1, whatever the loss.
WEIGHTS_OF_0_1 = {"dkd_alpha", "dkd_beta", "dist_beta", "dist_gamma"}


class Resolver:
    """Plans and makes what steps on one data set need. Each need is looked up once.

    Args:
        steps: by name.
        reuse: of trainings that are compared: same_code, any or never.
        resume: of what was interrupted: auto or never.

    Attributes:
        parent: the id of the run that every run made from now on is a child of.
    """

    def __init__(
        self,
        steps: Mapping[str, Step],
        dataset: Dataset,
        reuse: str = "same_code",
        resume: str = "auto",
    ) -> None:
        self.steps, self.dataset, self.reuse, self.resume = steps, dataset, reuse, resume
        self.parent: str | None = None
        self._plans: dict[Need, Found | Planned] = {}
        self._trained: dict[tuple[str, bool], str] = {}  # identifiers of the user's own networks
        self._deciding: list[Need] = []  # a need of a need is named by the outermost parameter

    # --- plan ---

    def plan_step(self, name: str, config: Config) -> Planned:
        """The plan of a step that was asked for: it runs whatever exists.

        Raises:
            KdflowError: it cannot work.
        """
        planned = self.with_inputs(name, config)
        with about(getattr(config, "network_field", "")):
            self._check(planned)
        return planned

    def plan(self, need: Need) -> Found | Planned:
        """What exists for a need, or how it will be made.

        Raises:
            KdflowError: what the user named does not exist or does not fit, or it cannot be made.
            UnreachableError: the store does not answer.
        """
        if need not in self._plans:
            parameter = "" if self._deciding else need.parameter
            self._deciding.append(need)
            try:
                with about(parameter):
                    self._plans[need] = self._found(need) or self._to_make(need)
            finally:
                self._deciding.pop()
        return self._plans[need]

    def _found(self, need: Need) -> Found | None:
        finder = FINDERS[type(need)]
        named = finder.named(need, self.dataset)
        if named is not None:
            return Found(named)
        for run in finder.candidates(need, self):
            try:
                return Found(finder.verified(need, run, self.dataset))
            except UnfitError as error:
                if run.run_id == getattr(need, "source", None):
                    raise  # the user named this very run
                print(f"{run.step}: {error}; it is not used")
        return None

    def _to_make(self, need: Need) -> Planned:
        name, values = FINDERS[type(need)].made_by(need, self.dataset)
        needs = {key: value for key, value in values.items() if isinstance(value, Need)}
        results = {key: self.plan(value).result for key, value in needs.items()}
        later = {key: needs[key] for key, result in results.items() if result is None}
        known = {key: result.source if result else "auto" for key, result in results.items()}
        config = validated(self.steps[name].config, values | known)
        if later:
            planned = Planned(self.steps[name], config, later=later)
        else:
            planned = self.with_inputs(name, config)
        self._check(planned)
        return planned

    def with_inputs(self, name: str, config: Config) -> Planned:
        """A step with its needs, which are planned, and its parameters without `auto`."""
        step = self.steps[name]
        needs = step.needs(config, self.dataset)
        inputs = {role: need for role, need in needs.items() if self._is_met(name, role, need)}
        return Planned(step, step.resolved(config, self._of(inputs), self.dataset), inputs)

    def _is_met(self, name: str, role: str, need: Need) -> bool:
        """Whether there is a plan for a need. Why there is none for an optional one is printed; for
        any other it is raised."""
        try:
            self.plan(need)
        except (UnreachableError, NoRoomError):
            raise
        except KdflowError as error:
            if not need.optional:
                raise
            print(f"{role}: {error}; {name} goes on without it")
            return False
        return True

    def _of(self, needs: Mapping[str, Need]) -> dict[str, Found | Planned]:
        return {role: self.plan(need) for role, need in needs.items()}

    def _check(self, planned: Planned) -> None:
        planned.step.check(planned.config, self.dataset, self._of(planned.inputs))

    # --- find ---

    def same_runs(self, name: str, values: Mapping[str, Any]) -> list[FoundRun]:
        """The finished runs that are what this step would make with these parameters, by any code,
        oldest first."""
        config = validated(self.steps[name].config, values)
        planned = self.with_inputs(name, config)
        if any(plan.result is None for plan in self._of(planned.inputs).values()):
            return []  # what it builds on is new
        made = find_runs({KEY_TAG: self.key(planned)})
        return made or find_runs({KEY_TAG: self._key_of_0_1(planned, config)})

    def same_code_runs(self, name: str, values: Mapping[str, Any]) -> list[FoundRun]:
        """Those of `same_runs` that `reuse` allows to be compared with others."""
        if self.reuse == "never":
            return []
        runs = self.same_runs(name, values)
        if self.reuse == "any":
            return runs
        config = validated(self.steps[name].config, values)
        code = code_of(name, config.used())
        here = hardware()
        made = [
            run
            for run in runs
            if run.tags.get(CODE_TAG) == code and run.tags.get(HARDWARE_TAG, here) == here
        ]
        if len(made) < len(runs):
            print(
                f"{self.steps[name].title(config)}: {len(runs) - len(made)} earlier run(s) made by"
                f" other code or on other hardware than {here}, not reused (reuse=any would)"
            )
        return made

    def key(self, planned: Planned) -> str:
        """What a step's result depends on besides code, as a SHA-256: the step, its parameters that
        are not at a neutral value, the images, and the content that it builds on."""
        content = {role: it.result.digest for role, it in self._of(planned.inputs).items()}
        params = planned.config.keyed() | self._own_networks(planned.config)
        return _sha256(planned.step.name, params, self.dataset, content)

    def _own_networks(self, config: Config) -> dict[str, str]:
        """See `own_networks`. What is compared in one command is trained of one architecture."""
        found = own_networks(config, self.dataset)
        for name, identity in found.items():
            trained = getattr(config, name), getattr(config, "keeps_weights", False)
            if self._trained.setdefault(trained, identity) != identity:
                raise ChangedError(
                    f"{name}: expected the same network in {trained[0]} as at the start, got"
                    " another one; the file has changed meanwhile, so run the command again"
                )
        return found

    def _key_of_0_1(self, planned: Planned, config: Config) -> str:
        """The key of the same run in kdflow 0.1: all parameters, as asked for, and run ids."""
        weights = {name: value for name, value in config if name in WEIGHTS_OF_0_1}
        params = config.keyed() | weights
        ids = {role: it.result.source for role, it in self._of(planned.inputs).items()}
        return _sha256(planned.step.name, params, self.dataset, ids)

    # --- make ---

    def obtain(self, need: Need) -> Any:
        """The result of a need: what was found, or what is made now, inside the run that is
        open."""
        plan = self.plan(need)
        if isinstance(plan, Planned) and plan.result is None:
            if plan.later:
                for earlier in plan.later.values():
                    self.obtain(earlier)
                del self._plans[need]
                return self.obtain(need)
            run_id, metrics = self.make(plan)
            if isinstance(need, Training):
                plan.result = StepResult(run_id, metrics, plan.title)
            else:
                finder = FINDERS[type(need)]
                plan.result = finder.verified(need, get_run(run_id), self.dataset)
        return plan.result

    def make(self, planned: Planned) -> tuple[str, dict[str, float]]:
        """Run a planned step, and before it what it needs; returns its run's id and metrics."""
        resumes = planned.step.resumes
        with self.opened(planned, planned.title, keeps_state=resumes) as (run, results):
            metrics = planned.step.run(run, planned.config, self.dataset, **results)
        return run.run_id, metrics

    @contextlib.contextmanager
    def opened(
        self, planned: Planned, title: str, *, keeps_state: bool
    ) -> Iterator[tuple[Run, dict[str, Any]]]:
        """The open run of a planned step, called `title`, with its parameters and its key; and the
        results of its needs by role, which are made first where they do not exist.

        Args:
            keeps_state: see `run_of`.
        """
        step, values = planned.step, planned.config.used()
        with run_of(
            planned,
            title,
            self.dataset,
            parent=self.parent,
            keeps_state=keeps_state,
            resumes=self.resume == "auto",
            key=lambda: self._key_if_known(planned),
        ) as run:
            print(f"{title}: run {run.run_id}")
            if step.is_parent and self.parent is None:
                self.parent = run.run_id
            run.log_params({name: canonical(value) for name, value in values.items()})
            run.log_json(values, "config.json")
            results = {role: self.obtain(need) for role, need in planned.inputs.items()}
            run.set_tags({upstream_tag(role): it.source for role, it in results.items()})
            if not step.is_parent:
                key = self.key(planned)
                run.set_tags({KEY_TAG: key})
                claim_checkpoint(run, planned, key)
            yield run, results

    def _key_if_known(self, planned: Planned) -> str | None:
        exist = all(plan.result is not None for plan in self._of(planned.inputs).values())
        return self.key(planned) if exist and not planned.step.is_parent else None


def _sha256(
    step: str, params: Mapping[str, Any], dataset: Dataset, inputs: Mapping[str, str]
) -> str:
    named = {name: value for name, value in params.items() if name not in NAMED_BY_CONTENT}
    described = [step, named, dataset.digest, dict(inputs)]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
