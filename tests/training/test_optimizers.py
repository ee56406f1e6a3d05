import math

import keras
import numpy as np
import pytest

from kdflow.config.fitting import Settings
from kdflow.training.optimizers import WEIGHT_DECAY, SpeedrunSGD, make_optimizer


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


def one_step(settings: Settings, gradient: list[float], names: list[str]) -> list[float]:
    """What a first step adds to weights of 2."""
    weights = [keras.Variable(np.array([2.0], "float32"), name=name) for name in names]
    optimizer = make_optimizer(settings, 10)
    optimizer.build(weights)
    optimizer.apply([np.array([each], "float32") for each in gradient])
    return [float(weight.numpy()[0]) - 2 for weight in weights]


def test_gradients_beyond_the_norm_are_scaled_down_together() -> None:
    settings = Settings("sgd", 0.1, 1, 1, 0)
    # Nesterov's first step is 1.9 times the gradient times the rate; the norm of (3, 4) is 5
    assert one_step(settings, [3, 4], ["a", "b"]) == pytest.approx([-0.57, -0.76])
    clipped = settings._replace(clip_norm=2.5)
    assert one_step(clipped, [3, 4], ["a", "b"]) == pytest.approx([-0.285, -0.38])
    assert one_step(clipped, [0.3, 0.4], ["a", "b"]) == pytest.approx([-0.057, -0.076], rel=1e-4)


@pytest.mark.parametrize("shape", [(3, 3, 8, 16), (1, 1, 16, 4), (24, 10)])
def test_muons_first_step_of_a_kernel_is_nearly_orthogonal(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=each).astype("float32") for each in (shape, (5, 10), (10,))]
    started = [rng.normal(size=each.shape).astype("float32") for each in gradients]
    names = ["kernel", "kernel", "bias"]
    weights = [keras.Variable(it, name=name) for it, name in zip(started, names, strict=True)]
    settings = Settings("muon", 0.1, 1, 1, 0)
    optimizer = make_optimizer(settings, 10)
    optimizer.build(weights)
    optimizer.apply(gradients)
    taken = [weight.numpy() - before for weight, before in zip(weights, started, strict=True)]
    # by the singular value decomposition, which the Newton-Schulz iteration comes near
    rows, columns = math.prod(shape[:-1]), shape[-1]
    left, _, right = np.linalg.svd(gradients[0].reshape(rows, columns), full_matrices=False)
    step = taken[0].reshape(rows, columns) / (-0.1 * 0.2 * np.sqrt(max(rows, columns)))
    turned = left.T @ step @ right.T
    assert np.diag(turned) == pytest.approx(1, abs=0.35)
    assert turned - np.diag(np.diag(turned)) == pytest.approx(0, abs=1e-3)
    # the last kernel and biases: Adam's first step is the sign of the gradient
    for index in (1, 2):
        assert taken[index] == pytest.approx(-0.1 * np.sign(gradients[index]), rel=1e-3)


def test_muon_leaves_depthwise_kernels_to_adam() -> None:
    gradient = np.random.default_rng(0).normal(size=(3, 3, 8, 1)).astype("float32")
    weights = [keras.Variable(np.zeros(gradient.shape, "float32"), name="kernel") for _ in range(2)]
    optimizer = make_optimizer(Settings("muon", 0.1, 1, 1, 0), 10)
    optimizer.build(weights)
    optimizer.apply([gradient, gradient])
    for weight in weights:
        assert weight.numpy() == pytest.approx(-0.1 * np.sign(gradient), rel=1e-3)


def test_muon_decays_weights_and_neither_biases_nor_normalisation() -> None:
    names = ["kernel", "bias", "gamma", "beta"]
    settings = Settings("muon", 0.1, 1, 1, 0)
    plain = one_step(settings, [1] * 4, names)
    decayed = one_step(settings._replace(weight_decay=0.5), [1] * 4, names)
    assert np.subtract(decayed, plain) == pytest.approx([-2 * 0.5 * 0.1, 0, 0, 0], abs=1e-6)


def test_adamw_decays_the_kernel_of_a_layer_whatever_its_name() -> None:
    layer = keras.layers.Dense(1, name="debias", kernel_initializer="ones", bias_initializer="ones")
    layer.build((None, 1))
    optimizer = make_optimizer(Settings("adamw", 0.1, 1, 1, 0, weight_decay=0.5), 10)
    optimizer.build(layer.trainable_variables)
    optimizer.apply([keras.ops.zeros(each.shape) for each in layer.trainable_variables])
    decayed = [float(weight.numpy().item()) for weight in (layer.kernel, layer.bias)]
    assert decayed == pytest.approx([1 - 0.1 * 0.5, 1])


def test_adamw_decays_weights_and_neither_biases_nor_normalisation() -> None:
    settings = Settings("adamw", 0.1, 1, 1, 0, weight_decay=0.5)
    names = ["kernel", "bias", "gamma", "beta"]
    adam = one_step(settings._replace(optimizer="adam"), [1] * 4, names)
    adamw = one_step(settings, [1] * 4, names)
    assert np.subtract(adamw, adam) == pytest.approx([-2 * 0.5 * 0.1, 0, 0, 0], abs=1e-6)
