"""Whether a student had better start from a teacher's hints, at three temperatures."""

from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import GridSampler

from sweeps.driver.study import Study

INITS, TEMPS = ["none", "auto"], [2, 4, 8]

STUDY = Study(
    space={"init": CategoricalDistribution(INITS), "temp": FloatDistribution(2, 8)},
    sampler=lambda seed: GridSampler({"init": INITS, "temp": TEMPS}, seed),
    trials=6,
    cost="a hint run and 6 trainings in full: about 35 minutes on cifar10 on two cores",
)
