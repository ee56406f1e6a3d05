"""Failed trials are not compared with others."""

import optuna
import pytest
from optuna.pruners import BasePruner, HyperbandPruner, SuccessiveHalvingPruner
from optuna.trial import TrialState

from sweeps.driver.pruning import should_prune

HALVING = SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
HYPERBAND = HyperbandPruner(min_resource=1, max_resource=2, reduction_factor=3)  # of one bracket


def at_epoch_1(study: optuna.Study, accuracy: float) -> optuna.Trial:
    """A new trial that has reported its accuracy after the first epoch."""
    trial = study.ask()
    trial.report(accuracy, 1)
    return trial


@pytest.mark.parametrize("pruner", [HALVING, HYPERBAND])
def test_a_retried_setting_is_not_compared_with_its_failed_attempt(pruner: BasePruner) -> None:
    study = optuna.create_study(direction="maximize", pruner=pruner)
    failed = at_epoch_1(study, 0.7)
    assert not should_prune(failed)
    study.tell(failed, state=TrialState.FAIL)

    retried = at_epoch_1(study, 0.6)
    assert retried.should_prune()  # what Optuna would do
    assert not should_prune(retried)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.RUNNING]


@pytest.mark.parametrize("ended", [TrialState.PRUNED, TrialState.COMPLETE])
def test_a_trial_is_compared_with_pruned_and_complete_ones(ended: TrialState) -> None:
    study = optuna.create_study(direction="maximize", pruner=HALVING)
    first = at_epoch_1(study, 0.7)
    assert not should_prune(first)
    study.tell(first, 0.7 if ended == TrialState.COMPLETE else None, state=ended)
    assert should_prune(at_epoch_1(study, 0.6))
    assert not should_prune(at_epoch_1(study, 0.8))
