"""Batch normalisation by the fused kernel, against NumPy and Keras' own operations."""

from typing import Any

import keras
import numpy as np
import pytest
from computing import TYPES, as_array, needs_tensorflow, outputs_and_gradients, weighing

from kdflow.kernels import fast_kernels
from kdflow.lazy import lazy_import
from kdflow.precision import MIXED

tensorflow = lazy_import("tensorflow")

pytestmark = needs_tensorflow


def normalised(channels: int = 3, **options: Any) -> keras.Model:
    maps = keras.Input((4, 5, channels))
    return keras.Model(maps, keras.layers.BatchNormalization(**options, name="norm")(maps))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [3, 9, 32])  # in bfloat16, 9 are padded
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False, "epsilon": 1e-7}])
def test_normalisation_of_a_batch_is_that_of_the_formula(
    options: dict[str, Any], channels: int, dtype: str
) -> None:
    normal = np.random.default_rng(0).normal(size=(6, 4, 5, channels))
    x = as_array(tensorflow.cast(3 + 2 * normal, dtype))
    policy = MIXED if dtype == "bfloat16" else dtype
    network = normalised(channels, momentum=0.7, dtype=policy, **options)
    layer = network.get_layer("norm")
    gamma, beta = np.linspace(0.5, 2, channels), np.linspace(-1, 3, channels)
    if layer.scale:
        layer.gamma.assign(gamma)
    if layer.center:
        layer.beta.assign(beta)
    with fast_kernels(network):
        y, (downstream, *_) = outputs_and_gradients(network, x, training=True)
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    factor = (gamma if layer.scale else 1) / np.sqrt(variance + layer.epsilon)
    white = (x - mean) / np.sqrt(variance + layer.epsilon)
    expected = factor * (x - mean) + (beta if layer.center else 0)
    assert y == pytest.approx(expected, rel=TYPES[dtype], abs=4 * TYPES[dtype])
    assert as_array(layer.moving_mean) == pytest.approx(0.3 * mean, rel=1e-5)
    assert as_array(layer.moving_variance) == pytest.approx(0.7 + 0.3 * variance, rel=1e-5)
    # Ioffe and Szegedy 2015, "Batch Normalization", the gradients of section 3
    upstream = as_array(tensorflow.cast(weighing(x.shape), dtype))
    of_mean = upstream.mean(axis=(0, 1, 2))
    of_variance = white * (upstream * white).mean(axis=(0, 1, 2))
    expected = factor * (upstream - of_mean - of_variance)
    assert downstream == pytest.approx(expected, abs=8 * TYPES[dtype])


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_normalisation_has_the_gradients_of_keras_and_uses_moving_statistics_when_keras_does(
    training: bool, frozen: bool
) -> None:
    x = 3 + 2 * np.random.default_rng(0).normal(size=(6, 4, 5, 3))
    network = normalised()
    layer = network.get_layer("norm")
    layer.moving_mean.assign([1, 2, 3])
    layer.moving_variance.assign([1, 4, 9])
    layer.trainable = not frozen
    before = network.get_weights()
    expected = outputs_and_gradients(network, x, training)
    statistics = network.get_weights()
    network.set_weights(before)
    with fast_kernels(network):
        found = outputs_and_gradients(network, x, training)
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    for mine, theirs in zip(found[1], expected[1], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4)
    for mine, theirs in zip(network.get_weights(), statistics, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


def test_one_value_has_a_variance_of_zero() -> None:
    maps = keras.Input((1, 1, 2))
    layer = keras.layers.BatchNormalization(momentum=0)
    network = keras.Model(maps, layer(maps))
    with fast_kernels(network):
        y = network(np.full((1, 1, 1, 2), 7.0), training=True)
    assert as_array(y).tolist() == [[[[0, 0]]]]
    assert as_array(layer.moving_variance).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_inputs_of_another_type_are_left_to_keras(dtype: str) -> None:
    pixels = keras.Input((4, 5, 3), dtype=dtype)
    network = keras.Model(pixels, keras.layers.BatchNormalization(autocast=False)(pixels))
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3)).astype(dtype)
    expected = as_array(network(images, training=True))
    assert expected.std() == pytest.approx(1, abs=1e-3)
    with fast_kernels(network):
        assert np.array_equal(as_array(network(images, training=True)), expected)


def test_the_number_of_channels_may_be_unknown_in_a_graph() -> None:
    network, any_shape = normalised(momentum=0), tensorflow.TensorSpec((None, None, None, None))
    x = np.random.default_rng(0).normal(size=(6, 4, 5, 3))

    def step(x: Any) -> Any:
        return network.get_layer("norm")(x, training=True)

    with fast_kernels(network):
        tensorflow.function(step, input_signature=[any_shape])(x.astype(np.float32))
    statistics = as_array(network.get_layer("norm").moving_variance)
    assert statistics == pytest.approx(x.var(axis=(0, 1, 2)), rel=1e-5)


def test_a_mask_is_left_to_keras() -> None:
    network = normalised()
    layer, x = network.get_layer("norm"), np.random.default_rng(0).normal(size=(2, 4, 5, 3))
    mask = np.zeros((2, 4, 5), bool)
    mask[0] = True
    expected = as_array(layer(x, training=True, mask=mask))
    layer.moving_mean.assign([0, 0, 0])
    with fast_kernels(network):
        assert np.array_equal(as_array(layer(x, training=True, mask=mask)), expected)
