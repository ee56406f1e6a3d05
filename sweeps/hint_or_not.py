"""Starting from a teacher's hints or from random weights, at three temperatures."""

from optuna.distributions import CategoricalDistribution, FloatDistribution

from sweeps.driver.study import Study, grid

STUDY = Study(
    space={"init": CategoricalDistribution(["none", "auto"]), "temp": FloatDistribution(2, 8)},
    points=grid({"init": ["none", "auto"], "temp": [2.0, 4.0, 8.0]}),
    trials=6,
    cost="a hint run and 6 trainings in full: about 35 minutes on cifar10 on two cores",
)
