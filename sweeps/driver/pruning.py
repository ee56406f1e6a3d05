"""Which trials a study's pruner compares."""

import copy
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState


def should_prune(trial: optuna.Trial) -> bool:
    """Whether the pruner of its study stops a trial.

    Failed trials are not compared, unlike in `trial.should_prune`: with it, Optuna's successive
    halving compares a setting that is retried with its own first attempt, prunes it for being no
    better, and may leave a study without a complete trial.
    """
    study = copy.copy(trial.study)
    latest = study.get_trials(deepcopy=False)[trial.number]
    study._storage = _WithoutFailed(study._storage)  # type: ignore[assignment]
    return study.pruner.prune(study, latest)


class _WithoutFailed:
    """A storage that lists no failed trials, and is otherwise the given one."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(*args, **kwargs)
        return [trial for trial in trials if trial.state != TrialState.FAIL]
