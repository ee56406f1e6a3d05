"""What the fast kernels compute, against NumPy and Keras' own operations, and where they are used."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from scipy.special import expit, ndtr

from kdflow import kernels
from kdflow.dataset import Images
from kdflow.kernels import fast_kernels, fused
from kdflow.lazy import lazy_import
from kdflow.network import build
from kdflow.precision import computing_in

tensorflow = lazy_import("tensorflow")

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="these kernels are TensorFlow's"
)
Z = np.linspace(-12, 12, 4801)
TYPES = {"float32": 3e-6, "bfloat16": 2**-8}  # and the error that they allow, relative to 1 or more


def density(z: np.ndarray) -> np.ndarray:
    return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def hard_sigmoid(z: np.ndarray) -> np.ndarray:
    return np.clip(z / 6 + 0.5, 0, 1)


ACTIVATIONS = {
    keras.activations.gelu: (lambda z: z * ndtr(z), lambda z: ndtr(z) + z * density(z)),
    keras.activations.silu: (
        lambda z: z * expit(z),
        lambda z: expit(z) * (1 + z * (1 - expit(z))),
    ),
    keras.activations.hard_silu: (
        lambda z: z * hard_sigmoid(z),
        lambda z: hard_sigmoid(z) + z / 6 * (np.abs(z) < 3),
    ),
}


def as_array(tensor: Any) -> np.ndarray:
    return np.asarray(tensorflow.cast(tensor, "float32"), np.float64)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("activation", kernels.ACTIVATIONS)
def test_activations_and_their_derivatives_are_those_of_the_formula(
    activation: Callable[[Any], Any], dtype: str
) -> None:
    value, derivative = ACTIVATIONS[activation]
    z = tensorflow.cast(Z[np.abs(np.abs(Z) - 3) > 1e-2], dtype)

    @tensorflow.function
    def step(z: Any) -> Any:
        with tensorflow.GradientTape() as tape:
            tape.watch(z)
            y = fused(activation)(z)
        return y, tape.gradient(y, z, output_gradients=tensorflow.ones_like(z) * 2)

    y, slope = step(z)
    assert y.dtype == slope.dtype == dtype
    exact = as_array(z)  # what the type has made of it
    for found, expected in ((y, value(exact)), (slope, 2 * derivative(exact))):
        error = np.abs(as_array(found) - expected) / np.maximum(1, np.abs(expected))
        assert error.max() < TYPES[dtype]


def test_a_trace_is_shared_by_networks_since_tensorflow_never_frees_one() -> None:
    from tensorflow.python.framework import ops

    gelu = fused(keras.activations.gelu)
    counts = []
    for width in (3, 4, 5):
        tensorflow.function(lambda x: gelu(x))(tensorflow.zeros((2, width)))
        counts.append(len(ops.gradient_registry.list()))
    assert counts[0] == counts[1] == counts[2]


def normalised(dtype: str = "float32", **options: Any) -> keras.Model:
    maps = keras.Input((4, 5, 3), dtype="float32")
    layer = keras.layers.BatchNormalization(**options, name="norm")
    return keras.Model(maps, keras.layers.Activation("linear", dtype=dtype)(layer(maps)))


def outputs_and_gradients(
    network: keras.Model, x: np.ndarray, training: bool
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The network's output, and the gradients of its input and its weights."""
    weighing = tensorflow.constant(np.random.default_rng(1).normal(size=x.shape), "float32")

    @tensorflow.function
    def step(x: Any) -> Any:
        with tensorflow.GradientTape() as tape:
            tape.watch(x)
            y = network(x, training=training)
        return y, tape.gradient(y, [x, *network.trainable_weights], output_gradients=weighing)

    y, gradients = step(tensorflow.constant(x, "float32"))
    return as_array(y), [as_array(each) for each in gradients]


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False, "epsilon": 1e-7}])
def test_normalisation_of_a_batch_and_moving_statistics_are_those_of_the_formula(
    options: dict[str, Any],
) -> None:
    x = 3 + 2 * np.random.default_rng(0).normal(size=(6, 4, 5, 3))
    network = normalised(momentum=0.7, **options)
    layer = network.get_layer("norm")
    gamma, beta = np.array([0.5, 1, 2]), np.array([-1, 0, 3])
    if layer.scale:
        layer.gamma.assign(gamma)
    if layer.center:
        layer.beta.assign(beta)
    with fast_kernels(network):
        y, _ = outputs_and_gradients(network, x, training=True)
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    expected = (x - mean) / np.sqrt(variance + options.get("epsilon", 1e-3))
    expected = expected * (gamma if layer.scale else 1) + (beta if layer.center else 0)
    assert y == pytest.approx(expected, abs=1e-5)
    assert as_array(layer.moving_mean) == pytest.approx(0.3 * mean, rel=1e-5)
    assert as_array(layer.moving_variance) == pytest.approx(0.7 + 0.3 * variance, rel=1e-5)


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


class OwnNormalization(keras.layers.BatchNormalization):
    """A user's own: what its `call` does is not known."""


def layers_with_kernels(network: keras.Model) -> list[str]:
    with fast_kernels(network):
        return [
            layer.name
            for layer in network.layers
            if "call" in vars(layer)
            or getattr(layer, "activation", None) in map(fused, kernels.ACTIVATIONS)
        ]


def test_they_replace_what_they_compute_and_nothing_else() -> None:
    x = images = keras.Input((8, 8, 3))
    norm = keras.layers.BatchNormalization
    for name, layer in {
        "norm": norm(),
        "gelu": keras.layers.Activation("gelu"),
        "conv": keras.layers.Conv2D(3, 1, activation="silu"),
        "relu": keras.layers.Activation("relu"),
        "tanh": keras.layers.Activation(lambda x: keras.activations.gelu(x, approximate=True)),
        "rows": norm(axis=1),
        "renorm": norm(renorm=True),
        "own": OwnNormalization(),
        "float64": norm(dtype="float64"),
        "bfloat16": norm(dtype="mixed_bfloat16"),
        "pure": norm(dtype="bfloat16"),
        "flat": keras.layers.Flatten(),
        "vectors": norm(),
    }.items():
        layer.name = name
        x = layer(x)
    network = keras.Model(images, x)
    assert layers_with_kernels(network) == ["norm", "gelu", "conv", "bfloat16"]


def test_a_mask_is_left_to_keras() -> None:
    network = normalised()
    layer, x = network.get_layer("norm"), np.random.default_rng(0).normal(size=(2, 4, 5, 3))
    mask = np.zeros((2, 4, 5), bool)
    mask[0] = True
    expected = as_array(layer(x, training=True, mask=mask))
    layer.moving_mean.assign([0, 0, 0])
    with fast_kernels(network):
        assert np.array_equal(as_array(layer(x, training=True, mask=mask)), expected)


@pytest.mark.parametrize("raises", [False, True])
def test_afterwards_the_layers_are_what_they_were(raises: bool) -> None:
    images = keras.Input((8, 8, 3))
    gelu = keras.layers.Activation("gelu", name="gelu")
    network = keras.Model(images, gelu(keras.layers.BatchNormalization(name="norm")(images)))
    before = network.get_config(), {layer.name: dict(vars(layer)) for layer in network.layers}
    try:
        with fast_kernels(network):
            assert vars(network.get_layer("norm")) != before[1]["norm"]
            assert gelu.activation is not keras.activations.gelu
            if raises:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    after = network.get_config(), {layer.name: dict(vars(layer)) for layer in network.layers}
    assert after == before


def test_a_block_in_another_changes_nothing_more() -> None:
    network = normalised()
    with fast_kernels(network):
        call = vars(network.get_layer("norm"))["call"]
        with fast_kernels(network):
            assert vars(network.get_layer("norm"))["call"] is call
        assert vars(network.get_layer("norm"))["call"] is call


def test_elsewhere_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "computes_on_processor", lambda: False)
    assert layers_with_kernels(normalised()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-4), ("bfloat16", 0.06)])
def test_the_gradients_of_a_whole_network_are_those_of_keras(
    precision: Any, error: float, train: Images
) -> None:
    network = build("whitened", train, 3, seed=0)
    images = tensorflow.constant(train.images[:32])
    labels = tensorflow.constant(train.labels[:32], "int32")
    weights = network.get_weights()

    def gradients() -> np.ndarray:
        network.set_weights(weights)

        @tensorflow.function
        def step() -> Any:
            with tensorflow.GradientTape() as tape:
                logits = tensorflow.cast(network(images, training=True), "float32")
                losses = keras.losses.sparse_categorical_crossentropy(labels, logits, True)
                loss = tensorflow.reduce_mean(losses)
            return tape.gradient(loss, network.trainable_weights)

        return np.concatenate([as_array(each).ravel() for each in step()])

    with computing_in(precision, network):
        expected = gradients()
        with fast_kernels(network):
            found = gradients()
    assert np.linalg.norm(found - expected) < error * np.linalg.norm(expected)
    assert not np.array_equal(found, expected)  # so they were used
