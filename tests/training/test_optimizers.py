import keras
import numpy as np
import pytest

from kdflow.training.optimizers import WEIGHT_DECAY, SpeedrunSGD


def test_speedrun_sgd_decays_favours_biases_of_normalisation_and_looks_ahead() -> None:
    gradients = np.random.default_rng(0).normal(size=12).astype("float32")
    kernel = keras.Variable(np.array([2.0], "float32"), name="kernel")
    beta = keras.Variable(np.array([2.0], "float32"), name="beta")
    optimizer = SpeedrunSGD(0.1, steps=12)
    optimizer.build([kernel, beta])
    for gradient in gradients:
        optimizer.apply([np.array([gradient])] * 2)
    for variable, rate in ((kernel, 0.1), (beta, 6.4)):
        expected, slow, velocity = 2.0, 2.0, 0.0
        for step, gradient in enumerate(gradients, start=1):
            expected -= expected * WEIGHT_DECAY * 0.1
            velocity = 0.85 * velocity - rate * gradient
            expected += 0.85 * velocity - rate * gradient
            if step in (5, 10, 12):  # every 5 steps and at the last one, further and further
                pull = 0.95**5 * (step / 12) ** 3
                slow = expected = pull * slow + (1 - pull) * expected
        assert float(variable.numpy()[0]) == pytest.approx(expected, rel=1e-5)
