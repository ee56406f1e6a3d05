"""Temperature and weight of the soft term, over their whole range, with pruning."""

from optuna.distributions import FloatDistribution
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import TPESampler

from sweeps.driver.study import Study

STUDY = Study(
    space={"temp": FloatDistribution(1, 32, log=True), "alpha": FloatDistribution(0, 1)},
    sampler=lambda seed: TPESampler(n_startup_trials=8, seed=seed),
    pruner=SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
    trials=30,
    cost="30 trainings, most of them pruned early: about a sixth of their epochs",
)
