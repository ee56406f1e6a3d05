"""Distillation with 18 views of the images: mirrored, and shifted by up to one pixel."""

from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import TPESampler

from sweeps.driver.study import Study

STUDY = Study(
    space={
        "temp": FloatDistribution(1.5, 10, log=True),
        "alpha": FloatDistribution(0.5, 1),
        "learning_rate": FloatDistribution(0.001, 0.004, log=True),
        "dropout": CategoricalDistribution([0, 0.1, 0.2]),
    },
    base={"views": 18, "schedule": "cosine"},
    sampler=lambda seed: TPESampler(n_startup_trials=6, seed=seed),
    pruner=SuccessiveHalvingPruner(min_resource=6, reduction_factor=3),
    trials=16,
    cost="16 trainings, most of them pruned early: about two fifths of their epochs; the"
    " logits of 18 views of cifar10 take up to an hour on two cores",
)
