"""Samplers whose draws depend on the trial's number, not on the process that runs it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class SeededByTrial(BaseSampler):
    """A new sampler for each trial, seeded with the trial's number. Workers that start at the same
    moment draw different values, and a study that is resumed draws as if it had never stopped."""

    def __init__(self, new: Callable[[int], BaseSampler], seed: int) -> None:
        self.new, self.seed = new, seed
        self.sampler = new(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        state = np.random.SeedSequence((self.seed, trial.number)).generate_state(1)
        self.sampler = self.new(int(state[0]))
        self.sampler.before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self.sampler.after_trial(study, trial, state, values)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)
