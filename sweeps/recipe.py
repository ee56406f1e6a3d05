"""Objective, learning rate and mirror images of a distillation on cached logits."""

from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import TPESampler

from sweeps.driver.study import Study

STUDY = Study(
    space={
        "temp": FloatDistribution(1, 16, log=True),
        "alpha": FloatDistribution(0.3, 1),
        "learning_rate": FloatDistribution(0.0003, 0.006, log=True),
        "loss": CategoricalDistribution(["kd", "dkd", "dist", "ls"]),
        "views": CategoricalDistribution([1, 2]),
    },
    base={"schedule": "cosine"},
    sampler=lambda seed: TPESampler(n_startup_trials=15, seed=seed),
    pruner=SuccessiveHalvingPruner(min_resource=3, reduction_factor=3),
    trials=60,
    cost="60 trainings, most of them pruned early: about a quarter of their epochs",
)
