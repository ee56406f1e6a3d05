"""The notebook's grid: seven temperatures by four weights of the soft term."""

from optuna.distributions import FloatDistribution

from sweeps.driver.study import Study, grid

TEMPS, ALPHAS = [2, 4, 6, 8, 10, 12, 14], [0.3, 0.5, 0.7, 0.9]

STUDY = Study(
    space={"temp": FloatDistribution(2, 14), "alpha": FloatDistribution(0.3, 0.9)},
    sampler=grid({"temp": TEMPS, "alpha": ALPHAS}),
    trials=28,
    cost="28 trainings in full: about two hours on cifar10 on two cores, two minutes on digits",
)
