"""Activations by fused kernels, against NumPy, SciPy and Keras' own operations."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from computing import TYPES, as_array, needs_tensorflow
from scipy.special import expit
from scipy.stats import norm

from kdflow.kernels import activations, fast_kernels
from kdflow.kernels.activations import fused
from kdflow.lazy import lazy_import

tensorflow = lazy_import("tensorflow")

pytestmark = needs_tensorflow
Z = np.linspace(-12, 12, 4801)


def hard_sigmoid(z: np.ndarray) -> np.ndarray:
    values: np.ndarray = np.clip(z / 6 + 0.5, 0, 1)
    return values


ACTIVATIONS: dict[Any, tuple[Callable[[np.ndarray], np.ndarray], ...]] = {
    keras.activations.gelu: (lambda z: z * norm.cdf(z), lambda z: norm.cdf(z) + z * norm.pdf(z)),
    keras.activations.silu: (
        lambda z: z * expit(z),
        lambda z: expit(z) * (1 + z * (1 - expit(z))),
    ),
    keras.activations.hard_silu: (
        lambda z: z * hard_sigmoid(z),
        lambda z: hard_sigmoid(z) + z / 6 * (np.abs(z) < 3),
    ),
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("activation", activations.ACTIVATIONS)
def test_activations_and_their_derivatives_are_those_of_the_formula(
    activation: Callable[[Any], Any], dtype: str
) -> None:
    value, derivative = ACTIVATIONS[activation]
    is_polynomial = dtype == "bfloat16" and activation is keras.activations.gelu
    has_corners = activation is keras.activations.hard_silu  # at -3 and 3
    z = tensorflow.cast(Z[np.abs(np.abs(Z) - 3) > 1e-2] if has_corners else Z, dtype)

    def step(z: Any) -> Any:
        with tensorflow.GradientTape() as tape:
            tape.watch(z)
            y = fused(activation)(z)
        return y, tape.gradient(y, z, output_gradients=tensorflow.ones_like(z) * 2)

    y, slope = tensorflow.function(step)(z)
    assert y.dtype == slope.dtype == dtype
    exact = as_array(z)  # what the type has made of it
    for found, expected in ((y, value(exact)), (slope, 2 * derivative(exact))):
        error = np.abs(as_array(found) - expected) / np.maximum(1, np.abs(expected))
        assert error.max() < TYPES[dtype] + (1.2e-3 if is_polynomial else 0)


def test_in_bfloat16_the_polynomials_of_gelu_are_close_to_its_formula() -> None:
    value, derivative = ACTIVATIONS[keras.activations.gelu]
    kernel, x = activations._gelu_of_bfloat16(), tensorflow.constant(Z, "float32")
    errors = np.abs(as_array(kernel.values(x)) - value(Z))
    assert 1e-5 < errors.max() < 2e-4
    relative = (errors / np.maximum(np.abs(value(Z)), 1e-30))[Z > -3]
    assert 1e-4 < relative.max() < 1e-3
    errors = np.abs(as_array(kernel.gradient(x, tensorflow.ones_like(x))) - derivative(Z))
    assert 1e-5 < errors.max() < 6e-4


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("activation", activations.ACTIVATIONS)
def test_what_diverges_is_not_hidden(activation: Callable[[Any], Any], dtype: str) -> None:
    z = tensorflow.constant([np.inf, np.nan, -np.inf], dtype)
    with tensorflow.GradientTape() as tape:
        tape.watch(z)
        y = fused(activation)(z)
    assert np.array_equal(as_array(y), [np.inf, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(as_array(activation(z)), as_array(y), equal_nan=True)
    assert np.isnan(as_array(tape.gradient(y, z))[1])


def test_a_trace_is_shared_by_networks_since_tensorflow_never_frees_one() -> None:
    from tensorflow.python.framework import ops

    gelu = fused(keras.activations.gelu)
    counts = []
    for width in (3, 4, 5):
        tensorflow.function(gelu)(tensorflow.zeros((2, width)))
        counts.append(len(ops.gradient_registry.list()))
    assert counts[0] == counts[1] == counts[2]


def test_a_recurrent_layer_whose_cell_has_the_activation() -> None:
    rows = keras.Input((4, 5))
    network = keras.Model(rows, keras.layers.GRU(3, activation="gelu")(rows))
    x = np.random.default_rng(0).normal(size=(2, 4, 5))
    expected = as_array(network(x))
    with fast_kernels(network):
        assert as_array(network(x)) == pytest.approx(expected, abs=1e-6)
    (layer,) = network.layers[1:]
    assert layer.activation is keras.activations.gelu
