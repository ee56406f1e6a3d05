"""The notebook's grid: seven temperatures by four weights of the soft term."""

from optuna.distributions import FloatDistribution

from sweeps.driver.study import Study, grid

STUDY = Study(
    space={"temp": FloatDistribution(2, 14), "alpha": FloatDistribution(0.3, 0.9)},
    points=grid({"temp": [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0], "alpha": [0.3, 0.5, 0.7, 0.9]}),
    trials=28,
    cost="28 trainings in full: on two cores an hour and a half on cifar10, four minutes on digits",
)
