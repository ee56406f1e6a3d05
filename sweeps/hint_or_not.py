"""Whether a student had better start from a teacher's hints, at three temperatures."""

from optuna.distributions import CategoricalDistribution, FloatDistribution

from sweeps.driver.study import Study, grid

INITS, TEMPS = ["none", "auto"], [2, 4, 8]

STUDY = Study(
    space={"init": CategoricalDistribution(INITS), "temp": FloatDistribution(2, 8)},
    sampler=grid({"init": INITS, "temp": TEMPS}),
    trials=6,
    cost="a hint run and 6 trainings in full: about 35 minutes on cifar10 on two cores",
)
